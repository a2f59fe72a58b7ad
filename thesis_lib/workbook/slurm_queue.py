"""Slurm's queue, as far as this user's jobs are in it, and which of them are of which run."""

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
# 01, the notebooks of a run, 06: what a job is for, and its file's name.
DATA_STATS, RUN, THESIS_TABLES = "01", "job", "06"


@dataclass(frozen=True)
class Job:
    """A job that Slurm was given: its id, by whom, and the settings of what it is for."""

    id: str
    user: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Queued:
    """A job's place in the queue."""

    state: str
    elapsed: str
    reason: str

    def __str__(self) -> str:
        """Such as ``pending (Priority)`` or ``running 1:23:45``."""
        if self.state == "PENDING":
            return f"pending ({self.reason})"
        return f"{self.state.lower()} {self.elapsed}"


def slurm_folder(folder: Path) -> Path:
    """Where the jobs of a run, or of a data set, keep their logs and ids.

    Args:
        folder: the run's, or ``runs/<data>``.
    """
    return folder / "slurm"


def note_job(folder: Path, kind: str, job_id: str, config: RunConfig) -> None:
    """Keep the id of a job that was submitted.

    Args:
        folder: the run's, or ``runs/<data>``.
        kind: DATA_STATS, RUN or THESIS_TABLES.
        job_id: Slurm's.
        config: of what it is for.
    """
    file = slurm_folder(folder) / f"{kind}.json"
    noted = {"id": job_id, "user": getpass.getuser(), "settings": config.to_dict()}
    write_json(file, noted)


def noted_job(folder: Path, kind: str) -> Job | None:
    """The last job that was submitted, None before the first; arguments as :func:`note_job`.

    Raises:
        InputError: where the file is damaged.
    """
    file = slurm_folder(folder) / f"{kind}.json"
    if not file.is_file():
        return None
    noted = read_json(file)
    try:
        return Job(noted["id"], noted["user"], noted["settings"])
    except (KeyError, TypeError):
        raise InputError(f"{file} tells of no job; remove it") from None


def noted_runs(folders: Iterable[Path]) -> list[Path]:
    """The folders of all runs of some data sets that Slurm was given.

    Args:
        folders: of data sets, ``runs/<data>``.
    """
    return [f.parent.parent for folder in folders for f in sorted(folder.glob("*/slurm/job.json"))]


def read_queue(seconds: float | None = None) -> dict[str, Queued]:
    """This user's jobs that wait or run, by their ids.

    Args:
        seconds: that it may take; by default SECONDS_TO_ANSWER.

    Raises:
        InputError: where squeue is not there, fails, or does not answer within some seconds.
    """
    if shutil.which("squeue") is None:
        raise InputError("there is no squeue on PATH")
    seconds = seconds or SECONDS_TO_ANSWER
    command = ["squeue", f"--user={getpass.getuser()}", "--noheader", f"--format={FORMAT}"]
    # What a user likes to see of a queue must not hide jobs here.
    environment = {n: v for n, v in os.environ.items() if not n.startswith("SQUEUE_")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=environment
        )
    except OSError as error:
        raise InputError(f"squeue cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"squeue does not answer within {seconds:g} s; try again") from None
    if done.returncode:
        said = done.stderr.strip().split("\n")[-1] or "it does not say why"
        raise InputError(f"squeue fails (exit status {done.returncode}): {said}")
    rows = (line.strip().split("|", 3) for line in done.stdout.splitlines())
    return {row[0]: Queued(*row[1:]) for row in rows if len(row) == 4}
