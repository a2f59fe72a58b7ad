"""What a job of a Slurm cluster does: the notebooks of one run, or 01, or 06.

A job can be cut off and started again any number of times: what is done is skipped, and a
training goes on where it saved. So submitit's own way of requeuing, which counts, is left alone.
"""

import os
import re
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

SECONDS_FOR_A_LOCK, SECONDS_BETWEEN_LOOKS = (
    300.0,
    10.0,
)  # a file server's, of a node that broke down
ATTEMPTS = 3
SECONDS_FOR_A_SIGNAL = 2.0  # in which the signal that ended a kernel reaches its runner too


def work(settings: dict[str, Any], kind: str) -> None:
    """What a job does: the notebooks of one run, or 01, or 06; submitit calls it.

    It ends with status 0, 1 where a notebook failed, or 75 where it was cut off: then it is in
    the queue again, or was cancelled.

    Args:
        settings: of a RunConfig.
        kind: DATA_STATS, RUN or THESIS_TABLES.
    """
    job, again = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", 0))
    print(f"job {job} on {socket.gethostname()}, start {again + 1}", flush=True)
    if "SLURM_CPUS_PER_TASK" in os.environ:  # as many on each node that it may come to
        threads = int(os.environ["SLURM_CPUS_PER_TASK"]) // settings["devices"]
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, threads)))
    plan = plan_of([RunConfig.from_dict(settings)])
    tasks = {DATA_STATS: [plan.first], RUN: plan.runs[0], THESIS_TABLES: [plan.last]}[kind]
    with sigterm_raises():  # takes these signals over from submitit
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
    """Wait for a lock that a life of this job on another node, which broke down, still holds."""
    folders = [task.executed.parent, *([task.run.path] if task.run else [])]
    end = time.monotonic() + SECONDS_FOR_A_LOCK
    for folder in folders:
        while True:
            try:
                with locked(folder):
                    break
            except InputError as error:
                if time.monotonic() > end:
                    return  # the notebook will say who holds it
                print(f"waiting: {error}", flush=True)
                time.sleep(SECONDS_BETWEEN_LOOKS)


def _leave(job: str, ended: Terminated) -> None:
    """End a job that was cut off; put it back into the queue where Slurm does not itself."""
    name = ended.signal.name
    try:
        if ended.signal == ended.signal.SIGTERM and _state(job) != "RUNNING":
            print(f"stopped by {name}, since Slurm ends this job or starts it anew", flush=True)
        else:
            _scontrol("requeue", job)
            print(f"stopped by {name}; requeued, and goes on from here", flush=True)
    except InputError as error:
        print(
            f"thesis: error: stopped by {name}, and could not be requeued: {error}; the same "
            "`thesis run --slurm` goes on from here",
            file=sys.stderr,
        )
    raise SystemExit(EXIT_RESUMABLE)


def _state(job: str) -> str:
    """A job's state, such as RUNNING, or COMPLETING once Slurm ends it."""
    match = re.search(r"JobState=(\w+)", _scontrol("show", "job", job))
    return match[1] if match else ""


def _scontrol(*arguments: str) -> str:
    """What scontrol prints; a controller that is busy is asked again.

    Raises:
        InputError: with what it says, or why it says nothing.
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
