"""Where data sets, runs and figures are found: all paths start from the workbook's root."""

import os
from pathlib import Path


def workbook_root() -> Path:
    """The folder that relative paths start from: data/, runs/ and figures/ lie in it.

    The nearest folder at or above the working directory that holds the notebooks, so that a
    notebook opened in JupyterLab and papermill started above it mean the same; else the
    working directory.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks" / "01_data_stats.ipynb").exists():
            return folder
    return here


def find_data(data: str) -> Path:
    """The data set's folder: from the working directory, else from the workbook's root."""
    path = Path(data).expanduser()
    return path if path.exists() else workbook_root() / path


def relative_to_root(path: Path) -> str:
    """``path`` as the user would write it: from the workbook's root where it lies below it."""
    path = Path(os.path.abspath(path))
    root = workbook_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def data_runs_folder(data_name: str) -> Path:
    """The folder of all runs on a data set, and of what was measured on the data set itself."""
    return workbook_root() / "runs" / data_name


def figures_folder(data_name: str) -> Path:
    """The folder of the plots and tables of a data set and of all its runs."""
    return workbook_root() / "figures" / data_name
