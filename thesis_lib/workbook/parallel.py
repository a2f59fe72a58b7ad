"""Execute several runs at once on one machine, each in a process with its own GPUs or cores."""

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
from typing import cast

import psutil

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.system import machine
from thesis_lib.system.processes import exit_with_parent
from thesis_lib.system.signals import sigterm_raises
from thesis_lib.workbook.grid import execute_in_turn
from thesis_lib.workbook.plan import Task

# A kernel has 8 s to stop (execution.SECONDS_TO_END); its run's process needs a little longer.
SECONDS_TO_END = 12.0

Runs = Sequence[Sequence[Task]]


def run_in_parallel(
    configs: Sequence[RunConfig], num_jobs: int | None = None
) -> Callable[[Runs], list[str]]:
    """Return a function for the ``run_all`` argument of `run_grid` that runs in parallel.

    Args:
        configs: configs of the runs.
        num_jobs: number of runs at a time; by default one per GPU, or else one per core.

    Raises:
        InputError: if ``num_jobs`` is less than 1, or there are GPUs but too few of them.
    """
    if num_jobs is None:
        num_jobs = jobs_of_machine(configs[0])
    if num_jobs < 1:
        raise InputError(f"--jobs must be at least 1, not {num_jobs}")
    shares = _shares(configs[0], min(num_jobs, len(configs)))
    return lambda runs: _execute_all(runs, shares)


def jobs_of_machine(config: RunConfig) -> int:
    """Return how many small runs can be executed at once: one per GPU, or else per core."""
    gpus = visible_gpus() if config.device in ("auto", "cuda") else []
    return len(gpus) // config.devices or machine.num_cores(config.devices)


def _shares(config: RunConfig, num_jobs: int) -> list[dict[str, str]]:
    """Return, for each run at a time, the environment variables that give it GPUs or cores."""
    gpus = visible_gpus() if config.device in ("auto", "cuda") else []
    if not gpus:
        if "OMP_NUM_THREADS" in os.environ:
            return [{}] * num_jobs
        threads = machine.num_cores(num_jobs * config.devices)
        return [{"OMP_NUM_THREADS": str(threads)}] * num_jobs
    each = config.devices
    if len(gpus) < num_jobs * each:
        raise InputError(
            f"{num_jobs} runs at once on {each} GPUs each need {num_jobs * each} GPUs, but there "
            f"are {len(gpus)}; use fewer --jobs or --devices, or --device cpu"
        )
    shares = (gpus[i * each : (i + 1) * each] for i in range(num_jobs))
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def visible_gpus() -> list[str]:
    """Return the GPUs visible to CUDA: those in CUDA_VISIBLE_DEVICES if set, else all by index."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        names = [name.strip() for name in listed.split(",")]
        hidden = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:hidden]
    if shutil.which("nvidia-smi") is None:
        return []
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
        lines = done.stdout.splitlines() if done.returncode == 0 else []
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
        run = tasks[0].run
        assert run is not None  # only 01 and 06 belong to no run
        name = run.path.name
        results, results_sender = spawn.Pipe(duplex=False)
        output, output_sender = spawn.Pipe(duplex=False)
        arguments = (tasks, share, os.getpid(), results_sender, output_sender)
        process = spawn.Process(target=_execute_run, args=arguments, name=name)
        process.start()
        results_sender.close()
        output_sender.close()
        relay = threading.Thread(target=_relay, args=(output, name), daemon=True)
        relay.start()
        return cls(name, share, process, results, relay)

    def failures(self) -> list[str]:
        """Wait for the process to end; return one line for what failed, if anything did."""
        self.process.join()
        self.relay.join(1)
        with self.results, contextlib.suppress(EOFError):
            return self.results.recv()
        return [f"{self.name}: its process died (exit status {self.process.exitcode})"]


def _relay(output: Connection, name: str) -> None:
    """Print the output of a process, each line with the run's name in front."""
    with open(os.dup(output.fileno()), errors="replace") as lines, output:
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
                worker = working.pop(cast(int, sentinel))
                free.append(worker.share)
                failures += worker.failures()
    except BaseException:
        _end(multiprocessing.active_children())  # also one that is not in `working` yet
        raise
    return failures


def _end(processes: Sequence[BaseProcess]) -> None:
    """Let processes save and stop; kill those that take too long, with all their children."""
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
    output: Connection,
) -> None:
    """Execute the notebooks of one run; this is the main function of its process.

    Args:
        tasks: the notebooks.
        share: environment variables with the GPUs or cores of this process.
        owner: id of the process that started this one, with which it ends.
        results: where to send the failures.
        output: where to write stdout and stderr.
    """
    os.environ.update(share)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    sys.stdout = open(1, "w", buffering=1, errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="replace", closefd=False)  # noqa: SIM115
    # A terminal sends Ctrl-C to this process, too. Ignore it: the owner then sends SIGTERM.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    with sigterm_raises():
        exit_with_parent(owner)
        results.send(execute_in_turn(tasks))
