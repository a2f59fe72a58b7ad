"""Describe the state of all runs as lines of text, for ``thesis status``."""

import contextlib
import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.runs.artifacts import read_metrics, trained_epochs
from thesis_lib.runs.directory import RunDirectory, check_has_runs, data_folders, run_folders
from thesis_lib.runs.provenance import stage_states
from thesis_lib.runs.stages import STAGES
from thesis_lib.system.files import read_json
from thesis_lib.system.paths import data_runs_folder
from thesis_lib.workbook import slurm_queue
from thesis_lib.workbook.plan import DATA_STATS, THESIS_TABLES


@dataclass(frozen=True)
class _Jobs:
    """Slurm's queue; ``queue`` is None if no job was submitted or squeue fails."""

    queue: dict[str, slurm_queue.Queued] | None

    @classmethod
    def of(cls, folders: Sequence[Path]) -> "_Jobs":
        """Read the queue if a job is recorded in any of the data sets' folders."""
        if not any(any(f.glob(p)) for f in folders for p in ("slurm/*.json", "*/slurm/*.json")):
            return cls(None)
        try:
            return cls(slurm_queue.read_queue())
        except InputError:  # show the status without the queue
            return cls(None)

    def place(self, folder: Path, kind: str) -> slurm_queue.Queued | None:
        """Return the queue entry of the last job of a run or data set; None if it has none."""
        last_job = _noted(folder, kind)
        return (self.queue or {}).get(last_job.id) if last_job else None

    def has_left(self, run: RunDirectory, job: str | None) -> bool:
        """Return whether a stage's job no longer runs: it has left the queue, or waits again.

        False if this is unknown, as the queue does not list jobs of other users.
        """
        if self.queue is None or job is None or not _is_own(run):
            return False
        return job not in self.queue or self.queue[job].state == "PENDING"


def _noted(folder: Path, kind: str) -> slurm_queue.Job | None:
    with contextlib.suppress(InputError):  # a damaged record must not prevent the status
        return slurm_queue.noted_job(folder, kind)
    return None


def _is_own(run: RunDirectory) -> bool:
    last_job = _noted(run.path, slurm_queue.RUN)
    return last_job is not None and last_job.user == getpass.getuser()


def status_lines(data_name: str | None = None) -> list[str]:
    """Return a block of lines per data set: its notebooks, then one row per run with its stages.

    Runs that were submitted to Slurm also show the state of their jobs in the queue.

    Args:
        data_name: name of a data set, or None for all.

    Raises:
        InputError: if the data set has no runs. The message gives the most similar names.
    """
    runs, unreadable = _open_runs(data_name)
    if not runs and not unreadable:
        check_has_runs(data_name)
        return ["no runs yet; start with `thesis demo`, or see `thesis run --help`"]
    lines = []
    names = list(dict.fromkeys(run.path.parent.name for run in runs))
    jobs = _Jobs.of([data_runs_folder(name) for name in names])
    for name in names:
        these = [run for run in runs if run.path.parent.name == name]
        lines.append(_data_line(name, len(these), jobs))
        rows = [["run", *STAGES, "queue", "val", "test", "error"]]
        rows += [_row(run, jobs) for run in these]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        if jobs.queue is None:
            widths[1 + len(STAGES)] = 0
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width)
            lines.append(("  " + "  ".join(cells)).rstrip())
    return lines + [f"unreadable: {message}" for message in unreadable]


def _data_line(name: str, num_runs: int, jobs: _Jobs) -> str:
    folder = data_runs_folder(name)
    per_data = (DATA_STATS.name, THESIS_TABLES.name)
    made = [n for n in per_data if (folder / "notebooks" / f"{n}.ipynb").is_file()]
    line = f"{name}: {num_runs} runs; notebooks done: {', '.join(made) or 'none'}"
    for kind in (slurm_queue.DATA_STATS, slurm_queue.THESIS_TABLES):
        if place := jobs.place(folder, kind):
            line += f"; {kind} {place}"
    return line


def _open_runs(data_name: str | None) -> tuple[list[RunDirectory], list[str]]:
    """Return the runs that can be opened, and an error message for each that cannot.

    Runs that were submitted to Slurm and have not started yet are included.
    """
    runs, unreadable = [], []
    started = run_folders(data_name)
    submitted = slurm_queue.noted_runs(data_folders(data_name))
    for folder in sorted({*started, *submitted}):
        try:
            if folder in started:
                runs.append(RunDirectory.open(folder))
            else:
                last_job = slurm_queue.noted_job(folder, slurm_queue.RUN)
                if last_job is not None:
                    runs.append(RunDirectory(RunConfig.from_dict(last_job.settings)))
        except InputError as error:
            unreadable.append(str(error))
    return runs, unreadable


def _row(run: RunDirectory, jobs: _Jobs) -> list[str]:
    states = stage_states(run)
    cells = []
    for name, state in states.items():
        cell = state["state"]
        if cell == "running" and jobs.has_left(run, state["job"]):
            cell = "interrupted"
        if name == "pretrain" and cell not in ("done", "missing"):
            cell += f" at {trained_epochs(read_metrics(run))}/{run.config.epochs}"
        if state["seconds"] is not None:
            cell += f" {timedelta(seconds=round(state['seconds']))}"
        cells.append(cell)
    val = test = error = ""
    if states["probe"]["state"] == "done":
        val = f"{100 * read_json(run.selection_file)['val_accuracy']:.2f} %"
    if states["test"]["state"] == "done":
        test = f"{100 * read_json(run.test_file)['accuracy']:.2f} %"
    for state in states.values():
        if state["state"] == "failed":
            error = state["error"] if len(state["error"]) <= 60 else state["error"][:57] + "..."
    place = jobs.place(run.path, slurm_queue.RUN)
    return [run.path.name, *cells, str(place or ""), val, test, error]
