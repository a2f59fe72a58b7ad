"""Parallel runs: each has its own GPUs or cores, and none keeps running after its owner."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from tests.processes import MARK, processes, wait_until
from thesis_lib.cli.command_line import main
from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system import machine
from thesis_lib.system.locks import locked
from thesis_lib.system.signals import EXIT_RESUMABLE
from thesis_lib.training import checkpoints
from thesis_lib.training.pretraining import pretrain
from thesis_lib.workbook import parallel
from thesis_lib.workbook.grid import grid_configs
from thesis_lib.workbook.parallel import jobs_of_machine, run_in_parallel, visible_gpus
from thesis_lib.workbook.plan import plan_of

SETTINGS = {"data": "data/tiny", "image_size": 32, "learning_rate": 0.05, "save_every": 1000}


def configs(**settings):
    return grid_configs({**SETTINGS, **settings, "backbone": ["lenet5"], "batch_size": [8, 16]})


@pytest.mark.parametrize(
    ("shown", "gpus"),
    [("0,1", ["0", "1"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b"]), ("", []), ("1,-1,2", ["1"])],
)
def test_gpus_are_those_that_cuda_shows(monkeypatch, shown, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert visible_gpus() == gpus


def test_gpus_are_else_those_that_the_driver_lists(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho '  MIG 1g'\necho 'GPU 1: B'\n")
    smi.chmod(0o755)
    assert visible_gpus() == ["0", "1"]
    smi.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    assert visible_gpus() == []
    smi.unlink()
    if shutil.which("nvidia-smi") is None:
        assert visible_gpus() == []


def test_the_demo_executes_a_run_per_gpu_or_else_per_core(monkeypatch):
    config = configs()[0].updated(device="auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert jobs_of_machine(config) == 3
    assert jobs_of_machine(config.updated(device="cpu")) == machine.num_cores()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert jobs_of_machine(config) == machine.num_cores()


def test_each_run_gets_gpus_of_its_own_or_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    two = RunConfig(devices=2)
    assert parallel._shares(two, 2) == [
        {"CUDA_VISIBLE_DEVICES": "4,5"},
        {"CUDA_VISIBLE_DEVICES": "6,7"},
    ]
    words = "3 runs at once on 2 GPUs each need 6 GPUs, but there are 4"
    with pytest.raises(InputError, match=words):
        run_in_parallel([two] * 3, 3)
    run_in_parallel([two] * 2, 3)  # only two runs, so two at a time are enough
    assert "CUDA_VISIBLE_DEVICES" not in parallel._shares(RunConfig(device="cpu"), 3)[0]


def test_on_the_cpu_each_run_gets_its_share_of_the_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert parallel._shares(RunConfig(), 3) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert parallel._shares(RunConfig(), 9) == [{"OMP_NUM_THREADS": "1"}] * 9
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert parallel._shares(RunConfig(), 3) == [{}] * 3


def test_each_run_that_fails_says_so_and_stops_no_other(workbook, capfd, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    plan = plan_of(configs())
    with contextlib.ExitStack() as held:
        for tasks in plan.runs:  # locked, so that no kernel is started
            held.enter_context(locked(tasks[0].executed.parent))
        failures = run_in_parallel(configs(), 1)(plan.runs)
    assert [line.split(":")[0] for line in failures] == [
        *("tiny/lenet5-bs8-seed42", "tiny/lenet5-bs16-seed42"),
    ]
    assert all("is in use by process" in line for line in failures)
    out = capfd.readouterr().out
    assert "lenet5-bs8-seed42 | >> tiny/lenet5-bs8-seed42: 02_supcon_pretraining\n" in out
    assert all(line.startswith("lenet5-bs") for line in out.splitlines())


def test_a_run_whose_process_dies_has_failed(workbook, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    start = parallel._Worker.start

    def start_and_kill(*given):
        worker = start(*given)
        worker.process.kill()
        return worker

    monkeypatch.setattr(parallel._Worker, "start", start_and_kill)
    failures = run_in_parallel(configs(), 2)(plan_of(configs()).runs)
    assert sorted(failures) == [
        f"lenet5-bs{size}-seed42: its process died (exit status -9)" for size in (16, 8)
    ]


@pytest.fixture
def life(workbook, monkeypatch):
    """A function that starts `thesis run --jobs 2` with two runs, and the file of its output."""
    shutil.rmtree("data/tiny/val")  # without it 03 and 04 are left out
    monkeypatch.setenv(MARK, str(workbook))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    printed = workbook / "printed.txt"

    def start(epochs):
        options = [f"--{n.replace('_', '-')}={v}" for n, v in SETTINGS.items()]
        command = [sys.executable, "-um", "thesis_lib", "run", *options, f"--epochs={epochs}"]
        command += ["--backbone", "lenet5", "--batch-size", "8", "16", "--jobs", "2"]
        with open(printed, "w") as file:
            return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)

    yield start, printed
    for process in processes(str(workbook)):
        process.kill()


def test_runs_at_once_end_with_the_bits_of_one_after_another(life, capsys):
    start, printed = life
    assert start(epochs=6).wait(200) == 0
    text = printed.read_text()
    begun = [text.index(f">> tiny/lenet5-bs{size}-seed42: 02") for size in (8, 16)]
    ended = [text.index(f"ok tiny/lenet5-bs{size}-seed42: 05") for size in (8, 16)]
    assert max(begun) < min(ended) and text.index("ok tiny: 01") < min(begun)
    assert max(ended) < text.index(">> tiny: 06")
    assert re.search(r"^lenet5-bs8-seed42 \| epoch 6/6 ", text, re.MULTILINE)
    assert start(epochs=6).wait(100) == 0
    assert printed.read_text().count("done already") == 6
    for config in configs(epochs=6):
        run, alone = RunDirectory(config), pretrain(config.updated(tag="alone"))
        weights = [checkpoints.load(r.last_checkpoint)["model"] for r in (run, alone)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
        assert [row["loss"] for row in read_metrics(run)] == [
            row["loss"] for row in read_metrics(alone)
        ]

    # Without val/, the look-up table alone is made and tested.
    assert "03 and 04 are left out" in text and "03_checkpoint_probing" not in text
    figures = printed.parent / "figures" / "tiny"
    assert (figures / "loss_curves.pdf").is_file() and not (figures / "test.tex").exists()
    assert "leaving one out" in (figures / "retrieval_size.tex").read_text(encoding="utf-8")
    assert (figures / "lenet5-bs16-seed42" / "retrieval_curve.pdf").is_file()
    assert main(["probe", "lenet5-bs16-seed42"]) == 2
    assert "has no val/ folder" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_runs_at_once_end_with_the_one_that_started_them(life, number):
    start, printed = life
    process = start(epochs=100_000)
    runs = [RunDirectory(config) for config in configs(epochs=100_000)]
    assert wait_until(lambda: all(len(read_metrics(run)) > 5 for run in runs), 300)
    if number == signal.SIGINT:  # as a terminal sends it
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    expected = {signal.SIGTERM: EXIT_RESUMABLE, signal.SIGINT: 130, signal.SIGKILL: -9}
    assert process.wait(30) == expected[number]
    assert wait_until(lambda: not processes(str(printed.parent)), 10)
    for run in runs:  # both have saved
        position = checkpoints.load(run.last_checkpoint)["position"]
        assert position["epoch"] >= len(read_metrics(run)) > 5
    assert "Traceback" not in printed.read_text()
