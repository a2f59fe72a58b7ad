"""Read this user's jobs in Slurm's queue, and record which job belongs to which run."""

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.system.files import read_json, write_json

SECONDS_TO_ANSWER = 5.0
FORMAT = "%i|%T|%M|%r"  # id, state, time used, reason
# Kinds of jobs (notebook 01, the notebooks of a run, notebook 06), also used as file names.
DATA_STATS, RUN, THESIS_TABLES = "01", "job", "06"


@dataclass(frozen=True)
class Job:
    """A submitted job: its id, the user who submitted it, and the settings of its run."""

    id: str
    user: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Queued:
    """State of a job in the queue."""

    state: str
    elapsed: str
    reason: str

    def __str__(self) -> str:
        """Return a text such as ``pending (Priority)`` or ``running 1:23:45``."""
        if self.state == "PENDING":
            return f"pending ({self.reason})"
        return f"{self.state.lower()} {self.elapsed}"


def slurm_folder(folder: Path) -> Path:
    """Return the folder with the logs and ids of the jobs of a run or a data set.

    Args:
        folder: folder of the run, or ``runs/<data>``.
    """
    return folder / "slurm"


def note_job(folder: Path, kind: str, job_id: str, config: RunConfig) -> None:
    """Record a submitted job.

    Args:
        folder: folder of the run, or ``runs/<data>``.
        kind: DATA_STATS, RUN or THESIS_TABLES.
        job_id: Slurm's job id.
        config: config of the run.
    """
    file = slurm_folder(folder) / f"{kind}.json"
    record = {"id": job_id, "user": getpass.getuser(), "settings": config.to_dict()}
    write_json(file, record)


def noted_job(folder: Path, kind: str) -> Job | None:
    """Return the job that was submitted last, or None; see :func:`note_job` for the arguments.

    Raises:
        InputError: if the file is damaged.
    """
    file = slurm_folder(folder) / f"{kind}.json"
    if not file.is_file():
        return None
    record = read_json(file)
    try:
        return Job(record["id"], record["user"], record["settings"])
    except (KeyError, TypeError):
        raise InputError(f"{file} is not a valid record of a job; delete it") from None


def noted_runs(folders: Iterable[Path]) -> list[Path]:
    """Return the folders of all runs that were submitted to Slurm.

    Args:
        folders: folders of data sets, ``runs/<data>``.
    """
    return [f.parent.parent for folder in folders for f in sorted(folder.glob("*/slurm/job.json"))]


def read_queue(seconds: float | None = None) -> dict[str, Queued]:
    """Return this user's pending and running jobs by their ids.

    Args:
        seconds: timeout of squeue, by default SECONDS_TO_ANSWER.

    Raises:
        InputError: if squeue is missing, fails, or does not answer in time.
    """
    if shutil.which("squeue") is None:
        raise InputError("there is no squeue on PATH; run this command on a cluster's login node")
    seconds = seconds or SECONDS_TO_ANSWER
    command = ["squeue", f"--user={getpass.getuser()}", "--noheader", f"--format={FORMAT}"]
    # Drop the user's SQUEUE_* display settings, which could hide jobs or change the format.
    environment = {n: v for n, v in os.environ.items() if not n.startswith("SQUEUE_")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=environment
        )
    except OSError as error:
        raise InputError(f"squeue cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"squeue did not answer within {seconds:g} s; try again") from None
    if done.returncode:
        said = done.stderr.strip().split("\n")[-1] or "no reason given"
        raise InputError(f"squeue failed (exit status {done.returncode}): {said}")
    rows = (line.strip().split("|", 3) for line in done.stdout.splitlines())
    return {row[0]: Queued(*row[1:]) for row in rows if len(row) == 4}
