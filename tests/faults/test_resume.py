"""A run that is killed at any moment and resumed ends with the same bits."""

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from thesis_lib.config import RunConfig
from thesis_lib.data import loaders, transforms
from thesis_lib.errors import InputError
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.runs.directory import RunDirectory, read_json
from thesis_lib.runs.stages import is_done
from thesis_lib.system.signals import EXIT_RESUMABLE, Terminated, sigterm_raises
from thesis_lib.training import checkpoints, resume, run_files
from thesis_lib.training.pretraining import pretrain


def digest(run: RunDirectory) -> str:
    """Return a hash of all results of a run, without the times that it took."""
    hashed = hashlib.sha256()
    content = checkpoints.load(run.last_checkpoint)
    for name, value in sorted(content["model"].items()):
        hashed.update(name.encode() + value.numpy().tobytes())
    for number, state in sorted(content["optimizer"]["state"].items()):
        hashed.update(f"{number}".encode() + state["momentum_buffer"].numpy().tobytes())
    columns = ("epoch", "loss", "learning_rate")
    rows = [[row[name] for name in columns] for row in read_metrics(run)]
    hashed.update(json.dumps(rows).encode())
    if run.probe_file.is_file():
        hashed.update(run.probe_file.read_bytes() + run.probe_curves_file.read_bytes())
        hashed.update(json.dumps(read_json(run.selection_file)["checkpoint"]).encode())
    return hashed.hexdigest()


def interrupted(config: RunConfig, steps: list[int], number: int = signal.SIGTERM) -> RunDirectory:
    """Train with restarts: the n-th start gets a signal after ``steps[n]`` steps."""
    change = transforms.color_jitter
    for step in steps:
        calls = []

        def signal_then_change(*arguments, calls=calls, step=step):
            calls.append(None)
            if len(calls) == step:
                os.kill(os.getpid(), number)
            return change(*arguments)

        with pytest.MonkeyPatch.context() as patched, sigterm_raises():
            patched.setattr(transforms, "color_jitter", signal_then_change)
            with contextlib.suppress(Terminated):
                pretrain(config)
                raise AssertionError("the signal was not obeyed")
    return pretrain(config)


@pytest.fixture
def whole(workbook, tiny_config) -> str:
    """Digest of a training without interruption."""
    return digest(pretrain(tiny_config.updated(tag="whole")))


def test_signal_in_the_middle_of_an_epoch_loses_no_step(whole, tiny_config, faults):
    config = tiny_config.updated(rolling_minutes=60, save_every=4)
    run = interrupted(config.updated(tag="cut"), [3, 1, 7, 6])
    metrics = read_metrics(run)
    assert [row["epoch"] for row in metrics] == [1, 2, 3, 4]
    assert digest(run) == digest(pretrain(config.updated(tag="same")))
    assert whole.startswith(digest(pretrain(tiny_config.updated(tag="again")))[:64])
    faults("SIGTERM in the middle of an epoch", 4, 4)


def test_control_random_numbers_that_depend_on_what_ran_before_change_the_bits(
    workbook, tiny_config, monkeypatch
):
    """This is what a stateful random generator does when steps are repeated after a restart."""
    generator, draw = np.random.default_rng(0), transforms.draw_random_numbers

    def draw_on(seed, epoch, images, views):
        return draw(int(generator.integers(2**31)), epoch, images, views)

    monkeypatch.setattr(transforms, "draw_random_numbers", draw_on)
    config = tiny_config.updated(rolling_minutes=60, save_every=4)
    run = interrupted(config.updated(tag="cut"), [3])
    generator = np.random.default_rng(0)
    assert digest(run) != digest(pretrain(config.updated(tag="whole")))


def test_number_and_kind_of_workers_do_not_change_a_bit(whole, tiny_config, monkeypatch, faults):
    two = digest(pretrain(tiny_config.updated(tag="two", workers=2)))
    real = loaders.DataLoader
    with monkeypatch.context() as patched:  # new workers in each epoch
        anew = lambda *a, **options: real(*a, **{**options, "persistent_workers": False})  # noqa: E731
        patched.setattr(loaders, "DataLoader", anew)
        other_two = digest(pretrain(tiny_config.updated(tag="anew", workers=2)))
    config = tiny_config.updated(tag="changing", rolling_minutes=60, save_every=1)
    change = transforms.color_jitter
    for workers in (0, 2):  # stopped after some steps with each number of workers
        calls = []

        def signal_then_change(*arguments, calls=calls):
            calls.append(None)
            if len(calls) == 8:
                os.kill(os.getpid(), signal.SIGTERM)
            return change(*arguments)

        with monkeypatch.context() as patched, sigterm_raises(), pytest.raises(Terminated):
            patched.setattr(transforms, "color_jitter", signal_then_change)
            pretrain(config.updated(workers=workers))
    changing = digest(pretrain(config.updated(workers=1)))
    assert {two, other_two, changing} == {whole}
    faults("workers: none, two, two anew each epoch, changed at a resume", 4, 4)


def test_run_without_progress_stops_and_says_so(workbook, tiny_config, monkeypatch, faults):
    config = tiny_config.updated(rolling_minutes=60, save_every=4)
    run = RunDirectory(config)
    options = [sys.executable, "-c", DIES_IN_EPOCH_2, json.dumps(config.to_dict())]
    for _ in range(resume.STARTS):
        subprocess.run(options, capture_output=True)
    assert read_json(run.restarts_file)["starts"] == resume.STARTS
    with pytest.raises(InputError, match=r"no progress: .* was started 5 times at epoch 1"):
        pretrain(config)
    unprotected = f"from thesis_lib.training import resume; resume.STARTS = 99\n{DIES_IN_EPOCH_2}"
    subprocess.run([sys.executable, "-c", unprotected, options[-1]], capture_output=True)
    # Control: without the limit, it would restart forever.
    assert read_json(run.restarts_file)["starts"] == resume.STARTS + 1
    pretrain(config.updated(force=True))
    assert not run.restarts_file.exists()
    faults("starts that end before the first save", 5, 5)


DIES_IN_EPOCH_2 = """
import json, os, signal, sys
from thesis_lib.training import pretraining as module
from thesis_lib.config import RunConfig
train, epochs = module._train_epoch, []
def die(*arguments):
    epochs.append(None)
    if len(epochs) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return train(*arguments)
module._train_epoch = die
module.pretrain(RunConfig.from_dict(json.loads(sys.argv[1])))
"""


@pytest.fixture
def half(workbook, tiny_config):
    """A run with two of four epochs done."""
    run = pretrain(tiny_config.updated(epochs=2))
    config = json.loads(run.config_file.read_text())
    run.config_file.write_text(json.dumps(config | {"epochs": 4}))
    for path in run.checkpoints.glob("*.pth"):
        content = checkpoints.load(path)
        checkpoints.save(path, content | {"config": content["config"] | {"epochs": 4}})
    return RunDirectory(tiny_config)


def change(run: RunDirectory, **parts) -> None:
    """Replace parts of every checkpoint, or remove those that are None."""
    for path in run.checkpoints.glob("*.pth"):
        content = checkpoints.load(path) | parts
        checkpoints.save(path, {k: v for k, v in content.items() if v is not None})


@pytest.mark.parametrize("part", resume.PARTS)
def test_checkpoint_that_lacks_a_part_is_refused_by_its_name(half, part, faults):
    change(half, **{part: None})
    with pytest.raises(InputError, match=rf"lacks {part}"):
        pretrain(half.config)
    if part in resume.NEEDED:
        with pytest.raises(InputError, match=rf"lacks {part}: it cannot be used"):
            pretrain(half.config.updated(force=True))
    else:
        pretrain(half.config.updated(force=True))
        assert forced(half) == [f"it lacks {part}"]
    faults(f"a checkpoint lacks {part}", 1, 1)


def forced(run: RunDirectory) -> list[str]:
    """Return what was forced, according to the provenance."""
    return read_json(run.provenance_file)[-1]["forced"]


DIFFERENCES = {
    "config": (
        {"config": {"data": "data/tiny", "backbone": "lenet5", "temperature": 0.5}},
        "temperature was 0.5, now 0.07",
    ),
    "data": ({"data_fingerprint": "0123456789abcdef"}, "the files of data/tiny were 0123456789abc"),
    "code": ({"code": {"thesis_lib": "0123"}}, "the code of thesis_lib was 0123, now "),
    "library": ({"code": {"torch": "1.0"}}, "the code of torch was 1.0, now "),
    "numbers": ({"code": {"numpy": "1.0"}}, r"the code of numpy was 1\.0, now \d"),
    "precision": ({"precision": "bfloat16"}, "precision was bfloat16, now float32"),
    "mean": ({"mean": [0.5, 0.5, 0.5]}, r"mean was \[0\.5, 0\.5, 0\.5\], now \["),
}


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_checkpoint_of_something_else_is_refused_and_can_be_forced(half, kind, faults):
    parts, words = DIFFERENCES[kind]
    change(half, **parts)
    with pytest.raises(InputError, match=words) as caught:
        pretrain(half.config)
    assert "--force" in str(caught.value) and "\n" not in str(caught.value)
    assert len(read_metrics(half)) == 2
    pretrain(half.config.updated(force=True))
    assert any(re.search(words, difference) for difference in forced(half))
    assert not read_json(half.config_file)["force"]
    faults(f"a checkpoint of other {kind}", 1, 1)


def test_control_without_the_comparison_it_would_go_on_silently(half, monkeypatch):
    change(half, data_fingerprint="0123456789abcdef")
    monkeypatch.setattr(resume, "_differences", lambda *arguments: [])
    pretrain(half.config)
    assert len(read_metrics(half)) == 4


def test_forced_settings_are_those_that_are_used(half):
    forced_config = half.config.updated(momentum=0.5, weight_decay=0.3, force=True)
    run = pretrain(forced_config)
    (group,) = checkpoints.load(run.last_checkpoint)["optimizer"]["param_groups"]
    assert (group["momentum"], group["weight_decay"]) == (0.5, 0.3)


def test_signal_between_two_epochs_is_obeyed_after_a_save(workbook, tiny_config, monkeypatch):
    config = tiny_config.updated(rolling_minutes=60, save_every=4)
    write, written = run_files.write_csv, []

    def signal_then_write(path, table):
        written.append(path)
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        write(path, table)

    with monkeypatch.context() as patched, sigterm_raises(), pytest.raises(Terminated):
        patched.setattr(run_files, "write_csv", signal_then_write)
        pretrain(config)
    assert checkpoints.load(RunDirectory(config).last_checkpoint)["position"]["epoch"] == 3


def test_control_numbers_that_depend_on_the_worker_change_the_bits(
    workbook, tiny_config, monkeypatch
):
    draw = transforms.draw_random_numbers

    def draw_by_process(seed, *arguments):
        return draw(seed + os.getpid(), *arguments)

    monkeypatch.setattr(transforms, "draw_random_numbers", draw_by_process)
    without = digest(pretrain(tiny_config.updated(tag="none")))
    assert digest(pretrain(tiny_config.updated(tag="two", workers=2))) != without


def test_a_finished_training_needs_no_old_code(trained, faults):
    """Its record is lost: nothing is trained again, whatever code there is now."""
    saved = checkpoints.load(trained.last_checkpoint)
    checkpoints.save(trained.last_checkpoint, saved | {"code": {"torch": "1.0"}})
    trained.status_file.unlink()
    assert not is_done(trained, "pretrain")
    pretrain(trained.config)
    assert is_done(trained, "pretrain")
    faults("status.json lost, after an update of the code", 1, 1)


def test_the_same_code_is_known_again(half):
    pretrain(half.config)
    assert "forced" not in read_json(half.provenance_file)[-1]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixed_keys_match_all_or_are_refused(half, prefix, faults):
    content = checkpoints.load(half.last_checkpoint)
    model = {prefix + name: value for name, value in content["model"].items()}
    change(half, model=dict(list(model.items())[1:]))
    with pytest.raises(InputError, match="1 missing"):
        pretrain(half.config)
    change(half, model=model | {"backbone.maps.0.bias": model[f"{prefix}backbone.maps.0.bias"]})
    with pytest.raises(InputError, match=r"the same weight twice: backbone\.maps\.0\.bias"):
        pretrain(half.config)
    change(half, model=model)
    backbone, _ = checkpoints.load_backbone(half.last_checkpoint)
    assert torch.equal(backbone.maps[0].bias, content["model"]["backbone.maps.0.bias"])
    pretrain(half.config)  # all keys match
    faults(f"keys with the prefix {prefix}", 3, 3)


PATIENCE = 1200  # seconds for 160 epochs: a slow core takes 120, beside other tests many times that
STORM = {
    "data": "data/tiny",
    "backbone": "test_resnet",
    "batch_size": 8,
    "image_size": 32,
    "epochs": 160,
    "save_every": 20,
    "learning_rate": 0.05,
    "rolling_minutes": 0.0,
    "probe_from": 20,
    "head_epochs": 1000,
    "head_views": 4,
}
LIFE = """
import json, os, sys
os.environ["OMP_NUM_THREADS"] = "1"
print("start", flush=True)
from thesis_lib.config import RunConfig
from thesis_lib.system.signals import Terminated, sigterm_raises
from thesis_lib.training.pretraining import pretrain
from thesis_lib.evaluation.probing import probe_checkpoints
config = RunConfig.from_dict(json.loads(sys.argv[1]))
try:
    with sigterm_raises():
        print("train", flush=True)
        run = pretrain(config)
        print("probe", flush=True)
        probe_checkpoints(run)
except Terminated:
    sys.exit(75)
"""


def start_life(config: RunConfig) -> subprocess.Popen:
    command = [sys.executable, "-c", LIFE, json.dumps(config.to_dict())]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen, moment: str, run: RunDirectory, random_: random.Random):
    """Wait until a process has reached a certain moment or has ended."""
    if moment == "start":
        time.sleep(random_.uniform(0, 3))
        return
    # Each finished epoch is saved, so a process killed after it has made some progress.
    words = ("probe",) if moment == "mid-probe" else ("epoch", "probe")
    for line in process.stdout:
        if line.startswith(words):
            break
    if moment == "mid-save":
        deadline = time.monotonic() + random_.uniform(0.3, 1)
        while process.poll() is None:
            time.sleep(0.0005)
            if time.monotonic() > deadline and any(run.checkpoints.glob(".*.partial")):
                return
    else:
        time.sleep(random_.uniform(0.2, 1.2))


def test_kill_storm_ends_with_the_bits_of_a_run_that_lived(workbook, faults):
    config = RunConfig.from_dict(STORM)
    process = start_life(config.updated(tag="whole"))
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    expected = digest(RunDirectory(config.updated(tag="whole")))

    run, chance = RunDirectory(config), random.Random(42)
    kills: dict[str, int] = {}
    moments = ["start", "mid-epoch", "mid-save"] * 4 + ["mid-epoch", "mid-save"] * 2
    workers = [0, 2]
    corrupted = 0
    for number in range(40):
        moment = moments[number] if number < len(moments) else "mid-probe"
        process = start_life(config.updated(workers=workers[number % 2]))
        wait_for(process, moment, run, chance)
        kind = chance.choice([signal.SIGKILL, signal.SIGTERM])
        if process.poll() is None:
            process.send_signal(kind)
            kills[f"{kind.name} {moment}"] = kills.get(f"{kind.name} {moment}", 0) + 1
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, -kind, EXIT_RESUMABLE), errors
        saved_twice = run.last_checkpoint.is_file() and run.previous_checkpoint.is_file()
        if corrupted < 2 and number >= 4 * (corrupted + 1) and saved_twice:
            content = bytearray(run.last_checkpoint.read_bytes())
            content[len(content) // 3] ^= 8
            run.last_checkpoint.write_bytes(content)
            corrupted += 1
        if process.returncode == 0:
            break
        if sum(n for name, n in kills.items() if "probe" in name) >= 4:
            break
    process = start_life(config)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert sum(kills.values()) >= 15 and corrupted == 2, kills
    assert any("probe" in name for name in kills) and any("save" in name for name in kills), kills
    assert digest(run) == expected
    assert len(list(run.checkpoints.glob("*.damaged"))) == 2
    total = sum(kills.values())
    names = ", ".join(f"{n} {name}" for name, n in sorted(kills.items()))
    print(names)
    faults("kill storm: SIGKILL and SIGTERM at start, mid-epoch, mid-save, mid-probe", total, total)
    faults("newest checkpoint corrupted in the storm", 2, 2)
