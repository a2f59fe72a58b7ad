"""The grid's state as text, for ``thesis status``."""

from datetime import timedelta

from thesis_lib.config import InputError, nearest
from thesis_lib.files import read_json
from thesis_lib.runs import RunDirectory, data_runs_folder, run_folders, workbook_root
from thesis_lib.stages import STAGES, read_metrics, stage_states, trained_epochs
from thesis_lib.workbook import DATA_STATS, THESIS_TABLES


def status_lines(data_name: str | None = None) -> list[str]:
    """A block for each data set: its notebooks, then a row a run with the state of each stage.

    Raises:
        InputError: for a data set without runs, with the nearest ones.
    """
    runs, unreadable = _open_runs(data_name)
    if not runs and not unreadable:
        known = [p.name for p in (workbook_root() / "runs").glob("*") if p.is_dir()]
        if data_name is not None:
            raise InputError(f"there are no runs on {data_name!r}{nearest(data_name, known)}")
        return ["no runs yet; `thesis demo` makes the first, `thesis run --help` tells of others"]
    lines = []
    for name in dict.fromkeys(run.path.parent.name for run in runs):
        these = [run for run in runs if run.path.parent.name == name]
        notebooks = data_runs_folder(name) / "notebooks"
        per_data = (DATA_STATS.name, THESIS_TABLES.name)
        made = [n for n in per_data if (notebooks / f"{n}.ipynb").is_file()]
        lines.append(f"{name}: {len(these)} runs; notebooks done: {', '.join(made) or 'none'}")
        rows = [["run", *STAGES, "val", "test", "error"]]
        rows += [_row(run) for run in these]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append(("  " + "  ".join(cells)).rstrip())
    return lines + [f"unreadable: {message}" for message in unreadable]


def _open_runs(data_name: str | None) -> tuple[list[RunDirectory], list[str]]:
    """The runs that can be opened, and for each other folder what is wrong with it."""
    runs, unreadable = [], []
    for folder in run_folders(data_name):
        try:
            runs.append(RunDirectory.open(folder))
        except InputError as error:
            unreadable.append(str(error))
    return runs, unreadable


def _row(run: RunDirectory) -> list[str]:
    states = stage_states(run)
    cells = []
    for name, state in states.items():
        cell = state["state"]
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
    return [run.path.name, *cells, val, test, error]
