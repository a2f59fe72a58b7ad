"""Locate data sets, runs and figures relative to the workbook's root folder."""

import os
from pathlib import Path


def workbook_root() -> Path:
    """Return the workbook's root, the folder that contains data/, runs/ and figures/.

    This is the nearest folder, from the working directory upwards, that contains the notebooks,
    or else the working directory. So paths mean the same in a notebook opened in JupyterLab and
    in one that papermill runs from the root.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks" / "01_data_stats.ipynb").exists():
            return folder
    return here


def find_path(place: str) -> Path:
    """Return a path relative to the working directory, or to the root if there is none."""
    path = Path(place).expanduser()
    return path if path.exists() else workbook_root() / path


def find_data(data: str) -> Path:
    """Return a data set's folder by its path, see :func:`find_path`, or its name in ``data/``."""
    path, named = find_path(data), workbook_root() / "data" / data
    is_name = len(Path(data).parts) == 1 and data not in (".", "..")
    return named if is_name and named.is_dir() and not (path / "train").is_dir() else path


def relative_to_root(path: Path) -> str:
    """Return a path relative to the workbook's root if it lies below it, else absolute."""
    path = Path(os.path.abspath(path))
    root = workbook_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def data_runs_folder(data_name: str) -> Path:
    """Return the folder of all runs on a data set and of the data set's own statistics."""
    return workbook_root() / "runs" / data_name


def figures_folder(data_name: str, other_splits: int = 0) -> Path:
    """Return the folder of the figures and tables of a data set and its runs.

    With ``other_splits``, that of its comparison with so many further splits.
    """
    compared = f"{data_name}+{other_splits}" if other_splits else data_name
    return workbook_root() / "figures" / compared
