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
from thesis_lib.interruption import EXIT_RESUMABLE, Terminated, sigterm_raises
from thesis_lib.job_queue import DATA_STATS, RUN, THESIS_TABLES
from thesis_lib.workbook import execute_in_turn, plan_of

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
            failures = execute_in_turn(tasks)
            if failures:
                time.sleep(SECONDS_FOR_A_SIGNAL)
        except Terminated as ended:
            _leave(job, ended)
    if failures:
        print(f"thesis: error: {failures[0]}", file=sys.stderr, flush=True)
        raise SystemExit(1)


def _leave(job: str, ended: Terminated) -> None:
    """End a job that was cut off; put it back into the queue where Slurm does not itself."""
    name = ended.signal.name
    if ended.signal == ended.signal.SIGTERM and _state(job) != "RUNNING":
        print(f"stopped by {name}, since Slurm ends this job or starts it anew", flush=True)
        raise SystemExit(EXIT_RESUMABLE)
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().split("\n")[-1]
        print(
            f"thesis: error: stopped by {name}, and could not be requeued: {said}; the same "
            "`thesis run --slurm` goes on from here",
            file=sys.stderr,
        )
    else:
        print(f"stopped by {name}; requeued, and goes on from here", flush=True)
    raise SystemExit(EXIT_RESUMABLE)


def _state(job: str) -> str:
    """A job's state, such as RUNNING, or COMPLETING once Slurm ends it; "" where it is unknown."""
    command = ["scontrol", "show", "job", job]
    shown = subprocess.run(command, capture_output=True, text=True).stdout
    match = re.search(r"JobState=(\w+)", shown)
    return match[1] if match else ""
