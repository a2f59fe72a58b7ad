"""Several ranks under torchrun, on the CPU with gloo, compute the same as a single process."""

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from tests.conftest import write_classes
from tests.one_step import BATCHES, one_step
from tests.processes import REPOSITORY, ranks_environment, torchrun_command
from thesis_lib.config import RunConfig
from thesis_lib.data.splits import split_dataset
from thesis_lib.errors import InputError
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.methods import METHODS
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.runs.directory import RunDirectory, read_json
from thesis_lib.system import device, distributed
from thesis_lib.system.signals import Terminated, sigterm_raises
from thesis_lib.training import checkpoints
from thesis_lib.training.launcher import run_under_torchrun
from thesis_lib.training.pretraining import pretrain
from thesis_lib.workbook.execution import execute_notebook
from thesis_lib.workbook.parameters import as_options
from thesis_lib.workbook.plan import Notebook, notebook_path


def torchrun(*arguments: object, ranks: int = 2) -> subprocess.CompletedProcess:
    """Start ranks with torchrun, each with one thread."""
    command = torchrun_command(*arguments, ranks=ranks)
    started = {"capture_output": True, "text": True, "env": ranks_environment()}
    return subprocess.run(command, timeout=120, **started)


def by_torchrun(*arguments: object, ranks: int = 2) -> str:
    """Run a thesis command on several ranks and return what it prints."""
    done = torchrun("-m", "thesis_lib", *arguments, ranks=ranks)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_shares_of_a_batch_are_all_of_it_in_order_and_never_twice(ranks, views):
    for num_images in range(1, 70):
        slices = [distributed.batch_slice(num_images, views, rank, ranks) for rank in range(ranks)]
        indices = [list(range(num_images))[own] for own in slices]
        if num_images // ranks * views < 2:  # too small to share: every rank gets all images
            assert indices == [list(range(num_images))] * ranks
            continue
        assert list(itertools.chain(*indices)) == list(range(num_images))
        sizes = [len(own) for own in indices]
        assert max(sizes) - min(sizes) <= 1 and min(sizes) * views >= 2


@pytest.mark.parametrize("ranks", [2, 3])
def test_loss_and_gradients_are_those_of_one_process(tmp_path, ranks):
    done = torchrun(REPOSITORY / "tests/one_step.py", tmp_path / "rank", ranks=ranks)
    assert done.returncode == 0, done.stderr
    for rank in range(ranks):
        found = torch.load(tmp_path / f"rank.{rank}", weights_only=True)
        assert len(found) == len(METHODS) * len(BATCHES) == 9
        for case, values in found.items():
            method, images = case.split()
            whole = one_step(RunConfig(method=method), int(images))
            assert values.keys() == whole.keys() and len(whole) > 4
            for name, value in whole.items():
                assert value.dtype == torch.float64
                told = f"{case}: {name} on rank {rank}"
                torch.testing.assert_close(values[name], value, rtol=1e-6, atol=1e-12, msg=told)
        assert found["supcon 10"]["loss"] > 0.1


class Pair(nn.Module):
    """A timm backbone whose batch normalisation layers include the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model("efficientnet_b0", pretrained=False, num_classes=0)


def test_batch_normalisation_is_synchronised_on_gpus_without_losing_activations(monkeypatch):
    model = Pair()
    before = set(model.state_dict())
    activations = [type(m.act) for m in model.modules() if isinstance(m, BatchNormAct2d)]
    weights = [id(weight) for weight in model.parameters()]
    made = []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(nn.Parameter, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(
        nn.parallel, "DistributedDataParallel", lambda m, **options: made.append(options) or m
    )
    ready = distributed.data_parallel(model)
    layers = [m for m in ready.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(layers) == len(activations) > 40
    assert all(isinstance(layer, nn.SyncBatchNorm) for layer in layers)
    assert [type(layer.act) for layer in layers] == activations
    assert set(ready.state_dict()) == before  # checkpoints stay compatible
    assert [id(weight) for weight in ready.parameters()] == weights  # as in the optimizer
    assert made[0]["device_ids"] == [1]


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A workbook with 540 digits, so that each split has more than one batch of features."""
    root = tmp_path_factory.mktemp("many")
    write_classes(root / "classes", images=180)
    split_dataset(root / "classes", root / "data" / "many")
    return root


@pytest.fixture
def at_many(many, monkeypatch):
    monkeypatch.chdir(many)
    return many


SETTINGS = {
    "data": "data/many",
    "backbone": "lenet5",
    "batch_size": 31,
    "image_size": 32,
    "epochs": 2,
    "save_every": 1,
    "learning_rate": 0.05,
    "head_epochs": 5,
    "head_views": 3,
}


def check_two_follow_one(two, alone):
    losses = [[row["loss"] for row in read_metrics(run)] for run in (alone, two)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    weights = [checkpoints.load(run.last_checkpoint)["model"] for run in (alone, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-2, atol=1e-4)
    assert read_json(two.provenance_file)[-1]["ranks"] == 2


def test_a_baseline_by_two_ranks_follows_that_of_one(at_many):
    settings = SETTINGS | {"method": "cross-entropy"}
    config = RunConfig(**settings, tag="two", workers=1)
    printed = by_torchrun("pretrain", *as_options(config))
    assert printed.count("epoch 2/2") == 1  # only rank 0 prints
    check_two_follow_one(RunDirectory(config), pretrain(RunConfig(**settings, tag="alone")))


def test_batch_normalisation_on_the_cpu_takes_each_ranks_own_images_and_learns(at_many):
    settings = SETTINGS | {"backbone": "test_resnet", "small_images": True}
    config = RunConfig(**settings)
    by_torchrun("pretrain", *as_options(config), ranks=2)
    losses = [row["loss"] for row in read_metrics(RunDirectory(config))]
    assert losses[1] < losses[0]


@pytest.fixture(scope="module")
def run_of_one(many):
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(many)
        run = pretrain(RunConfig(**SETTINGS, tag="features"))
        for command in ("probe", "test", "retrieve"):
            subprocess.run([*THESIS, command, run.path], check=True, capture_output=True)
        command = ("predict", run.path, "data/many/test", "--output", "one.csv")
        subprocess.run([*THESIS, *command], check=True, capture_output=True)
        return run


THESIS = (sys.executable, "-m", "thesis_lib")


@pytest.mark.parametrize("ranks", [2, 3])
def test_features_and_all_that_follows_are_the_same_bits_for_any_number_of_ranks(
    at_many, run_of_one, ranks
):
    made = ("probe.csv", "probe_curves.csv", "predictions.csv", "retrieval_predictions.csv")
    before = {name: (run_of_one.path / name).read_bytes() for name in made}
    for name in (*made, "selection.json", "test.json", "retrieval.json", "table.json"):
        (run_of_one.path / name).unlink()
    for file in run_of_one.heads.iterdir():
        file.unlink()
    for command in ("probe", "test", "retrieve"):
        printed = by_torchrun(command, run_of_one.path, ranks=ranks)
        assert printed.count(f"{run_of_one.path.name}: ") == 1
    for name, content in before.items():
        assert (run_of_one.path / name).read_bytes() == content, name
    by_torchrun(
        *("predict", run_of_one.path, "data/many/test", "--output", "ranks.csv"), ranks=ranks
    )
    assert Path("ranks.csv").read_bytes() == Path("one.csv").read_bytes()
    assert len(pd.read_csv("one.csv")) > 64  # more than one batch


def test_devices_start_torchrun_and_relay_what_it_prints(at_many, run_of_one, monkeypatch, capfd):
    monkeypatch.setenv("JPY_SESSION_NAME", "/notebook.ipynb")  # gets lines and no progress bar
    config = RunConfig(**SETTINGS, devices=2, tag="devices", workers=1)
    run = pretrain(config)
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1/2", "2/2"]
    assert len(lines) < 5
    check_two_follow_one(run, run_of_one)
    entry = read_json(run.provenance_file)[-1]
    assert entry["ranks"] == 2 and entry["command"] == " ".join(sys.argv)
    assert RunConfig.from_dict(read_json(run.config_file)).devices == 1  # devices is not saved
    probe = probe_checkpoints(run)
    assert read_json(run.provenance_file)[-1]["stage"] == "probe"
    assert "probing" in capfd.readouterr().out
    pd.testing.assert_frame_equal(probe, pd.read_csv(run.probe_file))
    pretrain(config)  # done already: no process is started
    assert capfd.readouterr().out == ""


def test_what_goes_wrong_on_the_ranks_comes_back_in_one_line(at_many):
    run = pretrain(RunConfig(**SETTINGS, tag="damaged"))
    for file in run.checkpoints.iterdir():
        file.write_bytes(b"damaged")
    two = run.config.updated(devices=2)
    with pytest.raises(InputError, match=r"all checkpoints of .* are damaged"):
        run_under_torchrun("probe", RunDirectory(two))
    pretrain(two.updated(force=True))  # trains anew with as many devices
    assert read_json(run.provenance_file)[-1]["ranks"] == 2


def test_a_problem_of_another_rank_is_told_by_rank_0(at_many):
    """The unreadable image is one that only rank 1 loads."""
    config = RunConfig(**SETTINGS | {"epochs": 1}, cache="none", tag="bad-image")
    run = pretrain(config)
    files = sorted((at_many / "data/many/val").rglob("*.png"))
    late = [file for file in files if file.parent.name == "003_δύο"][-1]
    content = late.read_bytes()
    size = len(content)
    late.unlink()
    late.write_bytes(b"x" * size)
    try:
        done = torchrun("-m", "thesis_lib", "probe", run.path)
    finally:
        late.unlink()
        late.write_bytes(content)
    assert done.returncode
    told = re.findall("^thesis: error: (.*)$", done.stderr, re.MULTILINE)
    assert len(told) == 1 and late.name in told[0]
    assert "Traceback" not in done.stderr.split("ChildFailedError")[0].split("torch/distributed")[0]
    state = read_json(run.status_file)["probe"]
    assert state["state"] == "failed" and late.name in state["error"]


@pytest.mark.parametrize("error", ["ValueError('odd')", "OSError(28, 'full', 'f')"])
def test_a_bug_on_another_rank_is_told_by_rank_0_and_its_traceback_shown(
    at_many, monkeypatch, capfd, error
):
    (at_many / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from thesis_lib.training import engine as training\n"
        f"    def train_epoch(*_): raise {error}\n"
        "    training.train_epoch = train_epoch\n"
        "if os.environ.get('RANK') == '0':\n"
        "    import time\n"
        "    from thesis_lib.system import distributed\n"
        "    problem = distributed._problem\n"
        "    distributed._problem = lambda: time.sleep(1) or problem()\n"  # SIGTERM meanwhile
    )
    monkeypatch.setenv("PYTHONPATH", f"{at_many}{os.pathsep}{REPOSITORY}")
    name = error.split("(")[0]
    config = RunConfig(**SETTINGS, devices=2, tag=name)
    with pytest.raises(InputError, match=rf"rank 1: {name}: .*(odd|full)"):
        pretrain(config)
    state = read_json(RunDirectory(config).status_file)["pretrain"]
    assert state["state"] == "failed" and f"rank 1: {name}" in state["error"]


def test_other_numbers_of_devices_than_ranks_are_refused(at_many):
    config = RunConfig(**SETTINGS, tag="numbers")
    done = torchrun("-m", "thesis_lib", "pretrain", *as_options(config), "--devices", 4)
    assert done.returncode
    told = "torchrun started 2 processes, but devices is 4"
    assert done.stderr.count(told) == 1


def test_a_wrong_option_is_told_once(at_many):
    done = torchrun("-m", "thesis_lib", "pretrain", "--bach-size", 8)
    assert done.returncode
    assert done.stderr.count("unrecognized arguments: --bach-size") == 1


def test_more_devices_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.choose_device(RunConfig(devices=2)).type == "cuda"
    with pytest.raises(InputError, match=r"4 processes .* torch finds 2"):
        device.choose_device(RunConfig(devices=4))


def test_a_lost_rank_is_told_also_if_torchruns_sigterm_interrupts_the_cleanup(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 0)
    monkeypatch.setattr(distributed, "_store", torch.distributed.HashStore())

    def fail(message: str) -> None:
        with sigterm_raises(), distributed.report_worker_errors():
            try:
                raise RuntimeError(message)
            finally:  # what the training closes
                try:
                    raise KeyError("an error that the cleanup handles")
                except KeyError:
                    signal.raise_signal(signal.SIGTERM)

    with pytest.raises(InputError, match=r"^another process of this run was killed or stopped"):
        fail("[third_party/gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    with pytest.raises(Terminated):
        fail("something else")


@pytest.mark.parametrize(("method", "fewest"), [("supcon", 3), ("cross-entropy", 6)])
def test_a_batch_that_cannot_be_shared_is_refused(at_many, method, fewest):
    settings = SETTINGS | {"method": method, "devices": 3, "tag": f"few-{method}"}
    with pytest.raises(InputError, match=rf"shared by 3 processes .* set it to {fewest} or more"):
        pretrain(RunConfig(**settings | {"batch_size": fewest - 1}))


def test_other_commands_are_not_for_torchrun(at_many):
    done = torchrun("-m", "thesis_lib", "status")
    assert done.returncode
    assert done.stderr.count("thesis: error: this command cannot run under torchrun") == 1


def test_two_machines_meet_over_a_port(at_many):
    """Start torchrun twice with one rank each, as on two nodes."""
    config = RunConfig(**SETTINGS, tag="nodes")
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    command += ["--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "nodes"]
    command += ["--rdzv-endpoint", "localhost:29517", "-m", "thesis_lib", "pretrain"]
    command += as_options(config)
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    nodes = [subprocess.Popen(command, env=ranks_environment(), **quiet) for _ in range(2)]
    try:
        printed = [node.communicate(timeout=120)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], printed
    assert "".join(printed).count("epoch 2/2") == 1
    assert read_json(RunDirectory(config).provenance_file)[-1]["ranks"] == 2


def test_notebook_02_starts_the_ranks_when_devices_are_asked_for(at_many):
    settings = SETTINGS | {"devices": 2, "tag": "notebook"}
    config = RunConfig(**settings)
    notebook = Notebook("02_supcon_pretraining", "pretrain")
    executed = at_many / "executed.ipynb"
    parameters = {name: config.to_dict()[name] for name in settings}
    assert execute_notebook(notebook_path(notebook), executed, parameters, config) is None
    text = executed.read_text(encoding="utf-8")
    assert "epoch 2/2" in text and "Setting OMP_NUM_THREADS" not in text
    assert read_json(RunDirectory(config).provenance_file)[-1]["ranks"] == 2
