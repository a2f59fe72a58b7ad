"""Several runs at once on one machine: each in a process, with GPUs or cores of its own."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess

import psutil

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.system import processes
from thesis_lib.system.processes import exit_with_parent
from thesis_lib.system.signals import sigterm_raises
from thesis_lib.workbook.grid import execute_in_turn
from thesis_lib.workbook.plan import Task

# A kernel that is told to stop has 8 s; its runner, that and what it takes to put things away.
SECONDS_TO_END = 12.0

Runs = Sequence[Sequence[Task]]


def run_in_parallel(configs: Sequence[RunConfig], jobs: int) -> Callable[[Runs], list[str]]:
    """What executes the notebooks of all runs, so many runs at once, for `run_grid`.

    Args:
        configs: the runs.
        jobs: how many at once.

    Raises:
        InputError: for too few of them, or where there are GPUs, but not enough of them.
    """
    if jobs < 1:
        raise InputError(f"--jobs must be at least 1, not {jobs}")
    shares = _shares(configs[0], min(jobs, len(configs)))
    return lambda runs: _execute_all(runs, shares)


def _shares(config: RunConfig, jobs: int) -> list[dict[str, str]]:
    """The environment variables that keep runs out of each other's way, of each place for one."""
    gpus = visible_gpus() if config.device in ("auto", "cuda") else []
    if not gpus:
        if "OMP_NUM_THREADS" in os.environ:
            return [{}] * jobs
        return [{"OMP_NUM_THREADS": str(processes.num_cores(jobs * config.devices))}] * jobs
    each = config.devices
    if len(gpus) < jobs * each:
        raise InputError(
            f"{jobs} runs at once on {each} GPUs each need {jobs * each}, and there are "
            f"{len(gpus)}: give fewer --jobs or --devices, or --device cpu"
        )
    parts = (gpus[i * each : (i + 1) * each] for i in range(jobs))
    return [{"CUDA_VISIBLE_DEVICES": ",".join(part)} for part in parts]


def visible_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that CUDA shows to a process: its own order, or as it was told."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        names = [name.strip() for name in listed.split(",")]
        hidden = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:hidden]
    if shutil.which("nvidia-smi") is None:
        return []
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
        lines = told.stdout.splitlines() if told.returncode == 0 else []
        return [str(i) for i in range(sum(line.startswith("GPU ") for line in lines))]
    return []


@dataclass
class _Worker:
    """A process that executes the notebooks of one run."""

    name: str
    share: dict[str, str]
    process: SpawnProcess
    results: Connection
    relay: threading.Thread

    @classmethod
    def start(cls, tasks: Sequence[Task], share: dict[str, str]) -> "_Worker":
        spawn = multiprocessing.get_context("spawn")
        name = tasks[0].run.path.name
        results, sends_results = spawn.Pipe(duplex=False)
        printed, prints = spawn.Pipe(duplex=False)
        arguments = (tasks, share, os.getpid(), sends_results, prints)
        process = spawn.Process(target=_execute_run, args=arguments, name=name)
        process.start()
        sends_results.close()
        prints.close()
        relay = threading.Thread(target=_relay, args=(printed, name), daemon=True)
        relay.start()
        return cls(name, share, process, results, relay)

    def failures(self) -> list[str]:
        """What has failed, once the process is at its end."""
        self.process.join()
        self.relay.join(1)
        with self.results, contextlib.suppress(EOFError):
            return self.results.recv()
        return [f"{self.name}: its process ended by itself (exit status {self.process.exitcode})"]


def _relay(printed: Connection, name: str) -> None:
    """Print what a process prints, each line after its run's name."""
    with open(os.dup(printed.fileno()), errors="replace") as lines, printed:
        for line in lines:
            sys.stdout.write(f"{name} | {line.rstrip()}\n")
            sys.stdout.flush()


def _execute_all(runs: Runs, shares: Sequence[dict[str, str]]) -> list[str]:
    waiting, free = deque(runs), deque(shares)
    working: dict[int, _Worker] = {}
    failures: list[str] = []
    try:
        while waiting or working:
            while waiting and free:
                worker = _Worker.start(waiting.popleft(), free.popleft())
                working[worker.process.sentinel] = worker
            for sentinel in wait(list(working)):
                worker = working.pop(sentinel)
                free.append(worker.share)
                failures += worker.failures()
    except BaseException:
        _end(multiprocessing.active_children())  # also one that was about to be noted
        raise
    return failures


def _end(processes: Sequence[BaseProcess]) -> None:
    """Tell processes to save and to end, and kill those that do not with all their children."""
    for process in processes:
        process.terminate()
    deadline = threading.Event()
    timer = threading.Timer(SECONDS_TO_END, deadline.set)
    timer.start()
    while (alive := [p for p in processes if p.is_alive()]) and not deadline.is_set():
        wait([p.sentinel for p in alive], timeout=0.5)
    timer.cancel()
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()


def _execute_run(
    tasks: Sequence[Task],
    share: dict[str, str],
    owner: int,
    results: Connection,
    prints: Connection,
) -> None:
    """What the process of a run does."""
    os.environ.update(share)
    for stream in (1, 2):
        os.dup2(prints.fileno(), stream)
    prints.close()
    sys.stdout.reconfigure(line_buffering=True)
    # A terminal's Ctrl-C reaches this process too; the one that has started it passes it on.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    with sigterm_raises():
        exit_with_parent(owner)
        results.send(execute_in_turn(tasks))
