"""What a report is made of: each notebook's HTML, and whether it still holds."""

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

# What can be told of a notebook, the worst first.
LABELS = {
    "failed": "Failed",
    "missing": "Not run yet",
    "outdated": "Out of date",
    "unconfirmed": "Not confirmed",
    "unchecked": "Not checked",
}
# What a report tells of a run's making: its words, and the key in provenance.json.
FACTS = {"Code (git commit)": "git_commit", "Data fingerprint": "data_fingerprint"}


@dataclass(frozen=True)
class Note:
    """What a reader must know before believing a notebook, and the command that helps."""

    kind: str  # a key of LABELS
    text: str
    command: str | None = None

    @property
    def label(self) -> str:
        """The first words of its line."""
        return LABELS[self.kind]


@dataclass(frozen=True)
class Chapter:
    """One notebook; ``ended`` is when it was executed, as ISO text in UTC."""

    anchor: str
    title: str
    note: Note | None
    ended: str = ""
    blocks: Sequence[Markup] = ()
    sections: Sequence[Section] = ()

    @property
    def is_shown(self) -> bool:
        """Whether there was a copy to show."""
        return len(self.blocks) > 0


@dataclass(frozen=True)
class Part:
    """The notebooks of the data set or of one run, and what the run was made from."""

    anchor: str
    title: str
    chapters: Sequence[Chapter]
    config: RunConfig | None
    note: Note | None = None
    facts: dict[str, list[str]] = field(default_factory=dict)

    @property
    def worst(self) -> Note | None:
        """The note that the table of contents shows beside the part's name."""
        return worst_of([self.note, *(chapter.note for chapter in self.chapters)])


def worst_of(notes: Iterable[Note | None]) -> Note | None:
    """The worst of the notes that are there; None where there is none."""
    there = (note for note in notes if note)
    return min(there, key=lambda note: list(LABELS).index(note.kind), default=None)


def distinct(values: Iterable[str | None]) -> list[str]:
    """The values that are there, each once, in their order."""
    return list(dict.fromkeys(value for value in values if value))


def data_part(data_name: str, runs: Sequence[Part]) -> Part:
    """Notebooks 01 and 06, which any run on the data set brings up to date."""
    sound_first = sorted(runs, key=lambda run: run.worst is not None)
    config = next((run.config for run in sound_first if run.config), None)
    command = _command(config) if config else None
    config = config or RunConfig(data=f"data/{data_name}")
    folder, notebooks = data_runs_folder(data_name), (DATA_STATS, THESIS_TABLES)
    return Part("data", data_name, _chapters(folder, notebooks, config, "data", command), None)


def run_parts(data_name: str) -> list[Part]:
    """A part for each run, also for one that failed before it had a ``config.json``."""
    folder = data_runs_folder(data_name)
    found = {file.parent for file in folder.glob("*/config.json")}
    found |= {file.parents[1] for file in folder.glob("*/notebooks/[0-9]*.ipynb")}
    return [_run_part(path, f"run{number}") for number, path in enumerate(sorted(found), start=1)]


def _run_part(folder: Path, anchor: str) -> Part:
    config, problem = _open(folder)
    notebooks = RUN_NOTEBOOKS
    if config and find_data(config.data).is_dir():  # without val/ there is no 03 and 04
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
    """A run's config, or what is wrong with it; of a run that never began, what was asked."""
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
    except InputError:  # the settings were what it failed by
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
    """A chapter for each notebook; the first that has a note says the command that helps."""
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
    reason = what_failed(content) or "its kernel ended before its last cell"
    told = f"This notebook ended early: {reason.rstrip('.')}. Below is how far it came."
    return Note("failed", f"{told} Put right what it names first.")


def _note(notebook: Notebook, config: RunConfig | None) -> Note | None:
    """What is to be said of an executed notebook; None where it holds, or nobody can tell."""
    if config is None or receipt_holds(notebook.name, config):
        return None
    if not has_receipt(notebook.name, config):
        return Note("unconfirmed", "Nothing confirms that this notebook reached its end.")
    if notebook is DATA_STATS and not find_data(config.data).is_dir():
        return Note(
            "unchecked", f"{config.data} is not here: whether its images are the same is unknown."
        )
    return Note("outdated", "What it was made from has changed since.")
