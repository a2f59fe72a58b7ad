"""One HTML file of a data set's executed notebooks, for a reader without Jupyter.

The file carries all that it shows and asks for nothing from elsewhere; it runs no script.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from thesis_lib.config import data_set_name
from thesis_lib.errors import InputError, nearest
from thesis_lib.reporting.report.parts import FACTS, data_part, distinct, run_parts, worst_of
from thesis_lib.system.files import write_text
from thesis_lib.system.paths import data_runs_folder, figures_folder, relative_to_root

FOLDER = Path(__file__).parent  # of the template and its CSS


def write_report(data_name: str, output: Path | None = None) -> Path:
    """Write the executed notebooks of a data set and of its runs as one HTML file.

    The same notebooks in the same state give the same bytes. A notebook that failed, has not
    been run or is out of date is said to be so at its place, with what to run.

    Args:
        data_name: of the data set, as ``runs/`` has it.
        output: the file; by default ``figures/<data>/report.html``.

    Returns:
        The file, written whole or not at all.

    Raises:
        InputError: where ``runs/`` has no such data set or no executed notebook of it, and for
            a notebook that is damaged.
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
    """Names of the data sets in ``runs/``."""
    return sorted(path.name for path in data_runs_folder("").glob("*") if path.is_dir())


def meant_data_set(data: str | None) -> str:
    """The data set that is meant: that of a folder or name, or the only one in ``runs/``.

    Raises:
        InputError: where none is named, and there are several or none.
    """
    if data is not None:
        return data_set_name(data)
    known = reported_data_sets()
    if len(known) != 1:
        listed = f"several data sets ({', '.join(known)}); name one" if known else "nothing yet"
        raise InputError(f"runs/ holds {listed}")
    return known[0]


def describe_report(file: Path) -> str:
    """One line on a report that was written: where it lies, and its size in MB."""
    megabytes = file.stat().st_size / 1e6
    return f"{relative_to_root(file)}: one file of {megabytes:.1f} MB that any browser opens"


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
        # Not the time now: the same notebooks give the same bytes.
        made=f"{ended[-1][:16].replace('T', ' ')} UTC" if ended else None,
        facts={name: distinct(v for run in runs for v in run.facts[name]) for name in FACTS},
        problems=[(part, chapter) for part, chapter in chapters if chapter.note],
        worst=worst_of(part.worst for part in parts),
        total=len(chapters),
    )
