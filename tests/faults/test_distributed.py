"""Ranks under torchrun that are killed or stopped: no process is left, and nothing is lost."""

import json
import re
import signal
import subprocess
import sys

import psutil
import pytest

from tests.conftest import TINY, write_workbook
from tests.faults.test_resume import digest
from tests.processes import ranks_environment, torchrun_command, wait_until
from thesis_lib.config import RunConfig
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.runs.directory import RunDirectory, read_json
from thesis_lib.system.processes import is_alive
from thesis_lib.workbook.parameters import as_options

EPOCHS = 120
OWNED = """
import json, sys
from thesis_lib.config import RunConfig
from thesis_lib.training.pretraining import pretrain
pretrain(RunConfig.from_dict(json.loads(sys.argv[1])))
"""


def start(config: RunConfig, owned: bool = False) -> subprocess.Popen:
    """Start two ranks with a loading worker each, by torchrun or (owned) by another program."""
    if owned:
        command = [sys.executable, "-c", OWNED, json.dumps(config.to_dict() | {"devices": 2})]
    else:
        command = torchrun_command("-m", "thesis_lib", "pretrain", *as_options(config))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=ranks_environment(), **quiet)


def finish(config: RunConfig) -> RunDirectory:
    process = start(config)
    told = process.communicate(timeout=200)[1]
    assert process.returncode == 0, told
    return RunDirectory(config)


def ranks_of(launcher: psutil.Process) -> list[psutil.Process]:
    """Return the processes of rank 0 and rank 1."""
    found = [p for p in launcher.children(recursive=True) if "RANK" in p.environ()]
    found = [p for p in found if "RANK" not in p.parent().environ()]  # without loading workers
    return sorted(found, key=lambda p: int(p.environ()["RANK"]))


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if is_alive(process)]


LONG = {"epochs": EPOCHS, "save_every": EPOCHS, "rolling_minutes": 0, "workers": 1}


@pytest.fixture
def config(workbook, tiny_config) -> RunConfig:
    return tiny_config.updated(**LONG)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Digest of the same training by two ranks without interruption."""
    root = tmp_path_factory.mktemp("whole")
    write_workbook(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return digest(finish(RunConfig(**TINY | LONG)))


def in_the_middle(config: RunConfig, owned: bool) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """Start, wait until some more epochs are done, and return the launcher and all processes."""
    run = RunDirectory(config)
    enough = len(read_metrics(run)) + 5
    process = start(config, owned)
    wait_until(lambda: len(read_metrics(run)) >= enough or process.poll() is not None, 100)
    assert process.poll() is None, process.stderr.read()
    started = psutil.Process(process.pid)
    return process, [started, *started.children(recursive=True)]


def signals(kind: str, processes: list[psutil.Process]) -> list[tuple[psutil.Process, int]]:
    """Return which process gets which signal."""
    launcher, (rank_0, rank_1) = processes[0], ranks_of(processes[0])
    return {
        "rank 0 killed": [(rank_0, signal.SIGKILL)],
        "rank 1 killed": [(rank_1, signal.SIGKILL)],
        "rank 1 killed under an owner": [(rank_1, signal.SIGKILL)],
        "launcher killed": [(launcher, signal.SIGKILL)],
        "owner killed": [(launcher, signal.SIGKILL)],
        "owner interrupted": [(launcher, signal.SIGINT)],
        "owner told to end": [(launcher, signal.SIGTERM)],
        "SIGTERM to rank 1": [(rank_1, signal.SIGTERM)],
        "SIGTERM to the launcher": [(launcher, signal.SIGTERM)],
        "SIGTERM to all": [(process, signal.SIGTERM) for process in processes],
        "rank 1 deaf to SIGTERM": [(rank_1, signal.SIGSTOP), (launcher, signal.SIGTERM)],
    }[kind]


# Each run is stopped in several ways, one after another, and then finished once.
@pytest.mark.parametrize(
    "kinds",
    [
        {
            "rank 0 killed": 10,
            "launcher killed": 10,
            "owner told to end": 10,
            "SIGTERM to rank 1": 10,
            "rank 1 killed under an owner": 10,
            "rank 1 deaf to SIGTERM": 35,
        },
        {
            "rank 1 killed": 10,
            "owner killed": 10,
            "owner interrupted": 10,
            "SIGTERM to the launcher": 10,
            "SIGTERM to all": 10,
        },
    ],
)
def test_no_process_is_left_and_the_run_goes_on_with_the_same_bits(config, whole, kinds, faults):
    for kind, seconds in kinds.items():
        stop(config, kind, seconds)
    assert digest(finish(config)) == whole
    for kind in kinds:
        faults(f"two ranks, {kind}", 1, 1)


def stop(config: RunConfig, kind: str, seconds: float) -> None:
    """Stop a run in the middle; check what is left of its processes and what it says."""
    before = len(read_metrics(RunDirectory(config)))
    process, processes = in_the_middle(config, owned="owner" in kind)
    try:
        # torchrun, two ranks, and a loading worker of each
        assert len(processes) >= 5 and len(ranks_of(processes[0])) == 2
        for target, number in signals(kind, processes):
            target.send_signal(number)
        assert wait_until(lambda: not alive(processes), seconds), kind
        assert process.wait(1) != 0, kind
        told = process.stderr.read()
        problem = re.findall(r"^(?:thesis: error: |.*InputError: )(.*)$", told, re.MULTILINE)
        state = read_json(RunDirectory(config).status_file)["pretrain"]
        if kind.startswith("rank 1 killed"):
            assert len(problem) == 1 and "another process of this run was killed" in problem[0]
            assert state["state"] == "failed" and problem[0] in state["error"]
        else:
            assert problem == [] and "AssertionError" not in told, kind
            # Rank 0 was killed; if it waited for a rank that ignores SIGTERM, by torchrun.
            silent = kind in ("rank 0 killed", "rank 1 deaf to SIGTERM")
            assert state["state"] == ("running" if silent else "interrupted"), kind
        assert before + 5 <= len(read_metrics(RunDirectory(config))) < EPOCHS, kind
    finally:
        for left in alive(processes):
            left.kill()
        process.stderr.close()
