"""Collect the parts of a report: each notebook's HTML, and whether it is up to date."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.reporting.report.cleaning import Section
from thesis_lib.reporting.report.rendering import read_notebook, rendered, title_of, what_failed
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import read_json
from thesis_lib.system.paths import data_runs_folder, find_data
from thesis_lib.workbook.parameters import as_options
from thesis_lib.workbook.plan import (
    DATA_STATS,
    RUN_NOTEBOOKS,
    THESIS_TABLES,
    Notebook,
    run_notebooks,
)
from thesis_lib.workbook.receipts import has_receipt, receipt_holds

# The possible problems of a notebook, worst first.
LABELS = {
    "failed": "Failed",
    "missing": "Not run yet",
    "outdated": "Out of date",
    "unconfirmed": "Not confirmed",
    "unchecked": "Not checked",
}
# The provenance shown for a run: its label, and the key in provenance.json.
FACTS = {"Code (git commit)": "git_commit", "Data fingerprint": "data_fingerprint"}


@dataclass(frozen=True)
class Note:
    """A warning about a notebook or run, and the command that fixes the problem."""

    kind: str  # a key of LABELS
    text: str
    command: str | None = None

    @property
    def label(self) -> str:
        """The bold words at the start of the warning."""
        return LABELS[self.kind]


@dataclass(frozen=True)
class Chapter:
    """One notebook of the report; ``ended`` is the ISO time (UTC) at which its execution ended."""

    anchor: str
    title: str
    note: Note | None
    ended: str = ""
    blocks: Sequence[Markup] = ()
    sections: Sequence[Section] = ()

    @property
    def is_shown(self) -> bool:
        """Whether there is an executed notebook to show."""
        return len(self.blocks) > 0


@dataclass(frozen=True)
class Part:
    """The notebooks of the data set or of one run, with the provenance of the run."""

    anchor: str
    title: str
    chapters: Sequence[Chapter]
    config: RunConfig | None
    note: Note | None = None
    facts: dict[str, list[str]] = field(default_factory=dict)

    @property
    def worst(self) -> Note | None:
        """The worst warning, which the table of contents shows next to the part's name."""
        return worst_of([self.note, *(chapter.note for chapter in self.chapters)])


def worst_of(notes: Iterable[Note | None]) -> Note | None:
    """Return the worst of some warnings, or None if there is none."""
    present = (note for note in notes if note)
    return min(present, key=lambda note: list(LABELS).index(note.kind), default=None)


def distinct(values: Iterable[str | None]) -> list[str]:
    """Return the non-empty values in order, each once."""
    return list(dict.fromkeys(value for value in values if value))


def data_part(data_name: str, runs: Sequence[Part]) -> Part:
    """Collect notebooks 01 and 06, which `thesis run` updates with any run on the data set."""
    sound_first = sorted(runs, key=lambda run: run.worst is not None)
    config = next((run.config for run in sound_first if run.config), None)
    command = _command(config) if config else None
    config = config or RunConfig(data=f"data/{data_name}")
    folder, notebooks = data_runs_folder(data_name), (DATA_STATS, THESIS_TABLES)
    return Part("data", data_name, _chapters(folder, notebooks, config, "data", command), None)


def run_parts(data_name: str) -> list[Part]:
    """Collect a part for each run, including runs that failed before writing ``config.json``."""
    folder = data_runs_folder(data_name)
    found = {file.parent for file in folder.glob("*/config.json")}
    found |= {file.parents[1] for file in folder.glob("*/notebooks/[0-9]*.ipynb")}
    return [_run_part(path, f"run{number}") for number, path in enumerate(sorted(found), start=1)]


def _run_part(folder: Path, anchor: str) -> Part:
    config, problem = _open(folder)
    notebooks = RUN_NOTEBOOKS
    if config and find_data(config.data).is_dir():  # without val/, notebooks 03 and 04 do not apply
        notebooks = run_notebooks(config.data)
    provenance = folder / "provenance.json"
    entries = read_json(provenance) if provenance.is_file() else []
    return Part(
        anchor,
        folder.name,
        _chapters(folder, notebooks, config, anchor, _command(config) if config else None),
        config,
        Note("unchecked", problem) if problem else None,
        {name: distinct(entry.get(key) for entry in entries) for name, key in FACTS.items()},
    )


def _open(folder: Path) -> tuple[RunConfig | None, str | None]:
    """Read a run's config, and return the problem if it cannot be read.

    If the run failed before writing ``config.json``, its config is built from the parameters of
    the failed notebook.
    """
    try:
        return RunDirectory.open(folder).config, None
    except InputError as error:
        problem = str(error)
    first = folder / "notebooks" / f"{RUN_NOTEBOOKS[0].name}.failed.ipynb"
    if (folder / "config.json").is_file() or not first.is_file():
        return None, problem
    parameters = read_notebook(first).metadata.get("papermill", {}).get("parameters", {})
    try:
        return RunConfig.from_dict(parameters), None
    except InputError:  # the run failed because of these settings
        return None, None


def _command(config: RunConfig) -> str:
    return f"thesis run {' '.join(as_options(config))}"


def _chapters(
    folder: Path,
    notebooks: Iterable[Notebook],
    config: RunConfig | None,
    anchor: str,
    command: str | None,
) -> list[Chapter]:
    """Build a chapter for each notebook; only the first warning gives the command to run."""
    chapters: list[Chapter] = []
    for notebook in notebooks:
        chapter = _chapter(folder, notebook, config, f"{anchor}-{notebook.name[:2]}")
        if chapter.note and not any(earlier.note for earlier in chapters):
            chapter = replace(chapter, note=replace(chapter.note, command=command))
        chapters.append(chapter)
    return chapters


def _chapter(folder: Path, notebook: Notebook, config: RunConfig | None, anchor: str) -> Chapter:
    copy = folder / "notebooks" / f"{notebook.name}.ipynb"
    failed = copy.with_name(f"{notebook.name}.failed.ipynb")
    if not copy.is_file() and not failed.is_file():
        title = notebook.name.replace("_", " ")
        return Chapter(anchor, title, Note("missing", "This notebook has not been run."))
    content = read_notebook(copy if copy.is_file() else failed)
    level = 2 if notebook.stage is None else 3
    title = title_of(content) or notebook.name.replace("_", " ")
    where = title if notebook.stage is None else f"{title} ({folder.name})"
    blocks, sections = rendered(content, anchor, level, where)
    note = _note(notebook, config) if copy.is_file() else _failure(content)
    ended = content.metadata.get("papermill", {}).get("end_time") or ""
    return Chapter(anchor, title, note, ended, blocks, sections)


def _failure(content: Any) -> Note:
    reason = what_failed(content) or "its kernel stopped before the last cell"
    return Note(
        "failed",
        f"This notebook stopped early: {reason.rstrip('.')}. The cells up to this point are shown "
        "below. Fix this problem first.",
    )


def _note(notebook: Notebook, config: RunConfig | None) -> Note | None:
    """Return the warning about an executed notebook, or None if it is up to date or unknown."""
    if config is None or receipt_holds(notebook.name, config):
        return None
    if not has_receipt(notebook.name, config):
        return Note("unconfirmed", "There is no confirmation that this notebook ran to its end.")
    if notebook is DATA_STATS and not find_data(config.data).is_dir():
        return Note(
            "unchecked",
            f"{config.data} is missing, so its images could not be checked for changes.",
        )
    return Note("outdated", "The files this notebook was computed from have changed since.")
