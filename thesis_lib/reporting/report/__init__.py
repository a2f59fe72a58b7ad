"""Write a data set's executed notebooks as one HTML file, for readers without Jupyter.

The file is self-contained: it embeds all figures, loads nothing from elsewhere and runs no
script.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from thesis_lib.config import data_set_name
from thesis_lib.errors import InputError, nearest
from thesis_lib.reporting.report.parts import FACTS, data_part, distinct, run_parts, worst_of
from thesis_lib.runs.directory import data_folders
from thesis_lib.system.files import write_text
from thesis_lib.system.paths import figures_folder, relative_to_root

FOLDER = Path(__file__).parent  # contains the template and its CSS


def write_report(data_name: str, output: Path | None = None) -> Path:
    """Write the executed notebooks of a data set and of its runs as one HTML file.

    If a notebook failed, has not been run or is out of date, its section says so and gives the
    command to run. The same notebooks in the same state always give the same bytes, and a
    partial file is never left behind.

    Args:
        data_name: name of the data set, a folder in ``runs/``.
        output: the file to write; by default ``figures/<data>/report.html``.

    Returns:
        The file.

    Raises:
        InputError: if ``runs/`` does not contain the data set or an executed notebook of it, or
            if a notebook is damaged.
    """
    if data_name not in reported_data_sets():
        raise InputError(
            f"there are no runs on {data_name!r}{nearest(data_name, reported_data_sets())}; "
            "`thesis status` lists the runs"
        )
    file = output or figures_folder(data_name) / "report.html"
    write_text(file, _page(data_name))
    return file


def reported_data_sets() -> list[str]:
    """List the names of the data sets in ``runs/``."""
    return [folder.name for folder in data_folders()]


def meant_data_set(data: str | None) -> str:
    """Return the name of the data set to use, by default the only one in ``runs/``.

    Args:
        data: a data set's name or folder, or None.

    Raises:
        InputError: if ``data`` is None and ``runs/`` contains no or several data sets.
    """
    if data is not None:
        return data_set_name(data)
    known = reported_data_sets()
    if len(known) != 1:
        if known:
            raise InputError(f"runs/ contains several data sets ({', '.join(known)}); name one")
        raise InputError("runs/ contains no data set yet; run the notebooks with `thesis run`")
    return known[0]


def describe_report(file: Path) -> str:
    """Describe a report in one line: its path and its size in MB."""
    megabytes = file.stat().st_size / 1e6
    return f"{relative_to_root(file)}: one file of {megabytes:.1f} MB that opens in any browser"


def _page(data_name: str) -> str:
    runs = run_parts(data_name)
    parts = [data_part(data_name, runs), *runs]
    chapters = [(part, chapter) for part in parts for chapter in part.chapters]
    if not any(chapter.is_shown for _, chapter in chapters):
        raise InputError(
            f"no notebook on {data_name} has been executed yet; `thesis run` executes them"
        )
    ended = sorted(chapter.ended for _, chapter in chapters if chapter.ended)
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        css=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        data_name=data_name,
        data_set=parts[0],
        runs=runs,
        # Not the current time, so that the same notebooks give the same bytes.
        made=f"{ended[-1][:16].replace('T', ' ')} UTC" if ended else None,
        facts={name: distinct(v for run in runs for v in run.facts[name]) for name in FACTS},
        problems=[(part, chapter) for part, chapter in chapters if chapter.note],
        worst=worst_of(part.worst for part in parts),
        total=len(chapters),
    )
