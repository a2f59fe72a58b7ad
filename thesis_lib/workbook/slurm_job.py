"""The work of a Slurm job: the notebooks of one run, or notebook 01, or notebook 06.

A job can be stopped and restarted any number of times: finished notebooks are skipped, and a
training resumes from its last save. submitit's own requeuing is not used because it limits the
number of restarts.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.system.locks import locked
from thesis_lib.system.signals import EXIT_RESUMABLE, Terminated, sigterm_raises
from thesis_lib.workbook.grid import execute_in_turn
from thesis_lib.workbook.plan import Task, plan_of
from thesis_lib.workbook.slurm_queue import DATA_STATS, RUN, SECONDS_TO_ANSWER, THESIS_TABLES

# A file server can keep the lock of a node that has failed for some minutes.
SECONDS_FOR_A_LOCK, SECONDS_BETWEEN_LOOKS = 300.0, 10.0
ATTEMPTS = 3  # of a call of scontrol
SECONDS_FOR_A_SIGNAL = 2.0  # a signal can stop a kernel before it reaches this process


def work(settings: dict[str, Any], kind: str) -> None:
    """Execute the notebooks of a job; submitit calls this function.

    The exit status is 0, 1 if a notebook failed, or 75 if the job was stopped by a signal. Then
    it is back in the queue, or was cancelled.

    Args:
        settings: settings of the RunConfig.
        kind: DATA_STATS, RUN or THESIS_TABLES.
    """
    job, restarts = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", 0))
    print(f"job {job} on {socket.gethostname()}, start {restarts + 1}", flush=True)
    if "SLURM_CPUS_PER_TASK" in os.environ:  # the same on every node where the job may restart
        threads = int(os.environ["SLURM_CPUS_PER_TASK"]) // settings["devices"]
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, threads)))
    plan = plan_of([RunConfig.from_dict(settings)])
    tasks = {DATA_STATS: [plan.first], RUN: plan.runs[0], THESIS_TABLES: [plan.last]}[kind]
    with sigterm_raises():  # replaces submitit's signal handlers
        try:
            _wait_for_the_lock(tasks[0])
            failures = execute_in_turn(tasks)
            if failures:
                time.sleep(SECONDS_FOR_A_SIGNAL)
        except Terminated as ended:
            _leave(job, ended)
    if failures:
        print(f"thesis: error: {failures[0]}", file=sys.stderr, flush=True)
        raise SystemExit(1)


def _wait_for_the_lock(task: Task) -> None:
    """Wait for the locks that this job may still hold from an earlier start on a failed node."""
    folders = [task.executed.parent, *([task.run.path] if task.run else [])]
    end = time.monotonic() + SECONDS_FOR_A_LOCK
    for folder in folders:
        while True:
            try:
                with locked(folder):
                    break
            except InputError as error:
                if time.monotonic() > end:
                    return  # the notebook then fails and names the owner
                print(f"waiting: {error}", flush=True)
                time.sleep(SECONDS_BETWEEN_LOOKS)


def _leave(job: str, ended: Terminated) -> None:
    """Exit after a signal; requeue the job if Slurm does not requeue or end it itself."""
    name = ended.signal.name
    try:
        if ended.signal == signal.SIGTERM and _state(job) != "RUNNING":
            print(f"stopped by {name}, because Slurm ends or restarts this job", flush=True)
        else:
            _scontrol("requeue", job)
            print(f"stopped by {name}; requeued to resume from here", flush=True)
    except InputError as error:
        print(
            f"thesis: error: stopped by {name}, but could not be requeued: {error}; run the same "
            "`thesis run --slurm` again to resume",
            file=sys.stderr,
        )
    raise SystemExit(EXIT_RESUMABLE)


def _state(job: str) -> str:
    """Return a job's state, such as RUNNING, or COMPLETING once Slurm is ending it."""
    match = re.search(r"JobState=(\w+)", _scontrol("show", "job", job))
    return match[1] if match else ""


def _scontrol(*arguments: str) -> str:
    """Run scontrol, with retries in case the controller is busy, and return its output.

    Raises:
        InputError: if all attempts fail, with scontrol's message or the reason.
    """
    for attempt in range(ATTEMPTS):
        try:
            done = subprocess.run(
                ["scontrol", *arguments], capture_output=True, text=True, timeout=SECONDS_TO_ANSWER
            )
            if done.returncode == 0:
                return done.stdout
            said = (done.stderr or done.stdout).strip().split("\n")[-1]
        except OSError as error:
            said = f"scontrol: {error.strerror}"
        except subprocess.TimeoutExpired:
            said = "scontrol does not answer"
        if attempt + 1 < ATTEMPTS:
            time.sleep(1)
    raise InputError(said)
