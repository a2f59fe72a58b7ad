"""Check whether figures and tables still agree with the runs, by recomputing and comparing."""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from thesis_lib.errors import InputError
from thesis_lib.evaluation.statistics import classification_metrics, large_class_metrics
from thesis_lib.figures.style import SOURCE
from thesis_lib.reporting.catalogue.tables import TABLES, write_table
from thesis_lib.reporting.chapter import BODY, DOCUMENT, NUMBERS, chapter_text
from thesis_lib.reporting.numbers import chapter_numbers, numbers_text
from thesis_lib.reporting.results import Results, reopen
from thesis_lib.reporting.sources import RUN_PARTS
from thesis_lib.reporting.table_files import ENDINGS, read_source
from thesis_lib.runs.artifacts import read_predictions, read_retrieval_predictions
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import read_json
from thesis_lib.system.paths import find_data, relative_to_root

CLOSE = 1e-9  # tolerance between a stored metric and the recomputed one


@dataclass
class Verdict:
    """The number of checks that agree, the differences, and what could not be checked."""

    agree: int = 0
    differ: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def take(self, faults: list[str]) -> None:
        """Add the outcome of one check: its differences, or none."""
        self.differ += faults
        self.agree += not faults


def verify(folder: Path) -> Verdict:
    """Check every figure, table and number in a folder against the runs.

    Tables, ``numbers.tex`` and the chapter are recomputed from the runs and compared. Figures are
    not redrawn; the hashes of the files they were drawn from are compared. The metrics and
    intervals in every ``test.json`` and ``retrieval.json`` are recomputed from the predictions.

    Args:
        folder: ``figures/<data>``, a run's folder in it, or a copy of either.

    Raises:
        InputError: if there are no figures or tables.
    """
    files = [path for path in folder.rglob("*") if path.suffix in (*ENDINGS, ".png", ".pdf")]
    not_tables = {folder / Path(name).stem for name in (DOCUMENT, BODY, NUMBERS)}
    stems = sorted({path.with_suffix("") for path in files} - not_tables)
    if not stems:
        raise InputError(f"no figures or tables in {folder}; give a folder such as figures/NAME")
    verdict, known = Verdict(), Known()
    for stem in stems:
        if any(_beside(stem, ending).is_file() for ending in ENDINGS):
            _check(_check_table, stem, folder, known, verdict)
        if any(_beside(stem, ending).is_file() for ending in (".png", ".pdf")):
            _check(_check_figure, stem, folder, known, verdict)
    for run in known.runs.values():
        for file in (run.test_file, run.retrieval_test_file):
            if file.is_file():
                _check(_check_metrics, file, folder, known, verdict)
    _check(_check_texts, folder / NUMBERS, folder, known, verdict)
    return verdict


def _beside(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)  # with_suffix would cut a stem that contains a dot


def _name(path: Path, folder: Path) -> str:
    inside = path.is_relative_to(folder)
    return path.relative_to(folder).as_posix() if inside else relative_to_root(path)


def _check(
    check: Callable[[Path, Path, "Known", Verdict], None],
    path: Path,
    folder: Path,
    known: "Known",
    verdict: Verdict,
) -> None:
    """Run one check; a missing or damaged file counts as a difference and stops nothing else."""
    try:
        check(path, folder, known, verdict)
    except FileNotFoundError as error:
        verdict.take([f"{_name(path, folder)}: {error.filename} is missing"])
    except (InputError, OSError, LookupError, ValueError, TypeError) as error:
        verdict.take([f"{_name(path, folder)}: cannot be recomputed: {error}"])


class Known:
    """A cache of results by their source, so that predictions and leaks are read only once."""

    def __init__(self) -> None:
        self.results: dict[str, Results] = {}
        self.runs: dict[Path, RunDirectory] = {}

    def results_of(self, source: dict[str, Any]) -> Results:
        """Return the current results for a recorded source.

        Raises:
            InputError: if the run or the data set no longer exists.
        """
        name = next(iter(source["runs"]), "") if source["part"] in RUN_PARTS else ""
        key = json.dumps((source["part"], source["data"], name, source["settings"]))
        if key not in self.results:
            self.results[key] = reopen(source)
            self.runs |= {run.path: run for run in self.results[key].runs}
        return self.results[key]


def _check_table(stem: Path, folder: Path, known: Known, verdict: Verdict) -> None:
    name, recorded = _name(stem, folder), _beside(stem, ".json")
    if stem.name not in TABLES:
        verdict.unknown.append(f"{name}, which is not a table of the workbook")
        return
    source = read_source(recorded)
    if TABLES[stem.name].needs_data and not find_data(source["data"]).is_dir():
        verdict.unknown.append(f"{name}, whose data set {source['data']} is missing")
        return
    results = known.results_of(source)
    with tempfile.TemporaryDirectory() as scratch:
        again = Path(scratch) / stem.name
        write_table(stem.name, results, again.parent)
        faults = [*_place_faults(stem, folder, source), *_table_faults(stem, name, again)]
        if again.with_name(recorded.name).is_file():
            faults += _source_changes(name, source, read_source(_beside(again, ".json")))
    verdict.take(faults)


def _place_faults(stem: Path, folder: Path, source: dict[str, Any]) -> Iterator[str]:
    """Yield a difference if a file was renamed or moved to the folder of another run."""
    if source.get("name") != stem.name:
        yield f"{_name(stem, folder)} was originally named {source.get('name')!r}"
    run_name = source.get("label")
    if run_name and stem.parent.resolve().name != run_name:
        yield f"{_name(stem, folder)} belongs to the run {run_name}"


def _source_changes(name: str, recorded: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Yield the differences between a table's recorded sources and the current ones."""
    for key in ("data_fingerprint", "settings"):
        if recorded.get(key) != now[key]:
            yield f"{name}.json records {key} {recorded.get(key)!r}, but it is now {now[key]!r}"
    files = {run: facts.get("files") for run, facts in recorded["runs"].items()}
    if files != {run: facts["files"] for run, facts in now["runs"].items()}:
        yield f"{name}.json records other run files than there are now"


def _table_faults(stem: Path, name: str, again: Path) -> Iterator[str]:
    """Yield the differences between a table's files and the recomputed ones."""
    if not _beside(again, ".csv").is_file():
        yield f"{name}.csv: the recomputed table is empty"
        return
    before, now = (_cells(_beside(path, ".csv")) for path in (stem, again))
    if before.shape != now.shape or list(before) != list(now):
        yield f"{name}.csv: has {_shape(before)}, but recomputed {_shape(now)}"
    elif not before.equals(now):
        rows, columns = np.nonzero((before != now).to_numpy())
        row, column = rows[0], before.columns[columns[0]]
        more = f" ({len(rows)} cells differ)" if len(rows) > 1 else ""
        yield (
            f"{name}.csv: {column!r} of {before.iloc[row, 0]!r} is {before[column].iloc[row]!r}, "
            f"but recomputed {now[column].iloc[row]!r}{more}"
        )
    for ending in (".md", ".tex"):
        ours, theirs = (_beside(path, ending) for path in (stem, again))
        if not ours.is_file():
            yield f"{name}{ending} is missing"
        elif _lines(ours) != _lines(theirs):
            yield f"{name}{ending} differs from the recomputed file"


def _cells(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype=str, keep_default_na=False)


def _shape(table: pd.DataFrame) -> str:
    return f"{len(table)} rows and {len(table.columns)} columns"


def _lines(file: Path) -> list[str]:
    return _without_commits(file.read_text(encoding="utf-8"))


def _without_commits(text: str) -> list[str]:
    """Split text into lines and drop the git commit, which can change without the numbers."""
    return [line.split("; code:")[0] for line in text.splitlines()]


def _check_figure(stem: Path, folder: Path, known: Known, verdict: Verdict) -> None:
    name, (png, pdf) = _name(stem, folder), (_beside(stem, ending) for ending in (".png", ".pdf"))
    recorded = _recorded_source(png)
    if recorded is None:
        verdict.unknown.append(f"{name}, which does not record its sources")
        return
    source = json.loads(recorded)
    if source["part"] == "data" and not find_data(source["data"]).is_dir():
        verdict.unknown.append(f"{name}, whose data set {source['data']} is missing")
        return
    faults = [f"{name}: {fault}" for fault in _source_faults(source, known)]
    faults += _place_faults(stem, folder, source)
    if not pdf.is_file():
        faults.append(f"{name}.pdf is missing")
    elif _in_pdf(recorded) not in pdf.read_bytes():
        faults.append(f"{name}.pdf was not drawn together with {name}.png")
    verdict.take(faults)


def _recorded_source(png: Path) -> str | None:
    """Read the sources that are recorded in a PNG, or None."""
    if not png.is_file():
        return None
    with Image.open(png) as image:
        return image.info.get(SOURCE)


def _in_pdf(text: str) -> bytes:
    """Encode ASCII text as matplotlib writes it into a PDF."""
    for character in "\\()":
        text = text.replace(character, f"\\{character}")
    return f"({text})".encode("ascii")


def _source_faults(source: dict[str, Any], known: Known) -> Iterator[str]:
    """Yield what has changed since a figure was drawn."""
    results = known.results_of(source)
    if source["data_fingerprint"] != results.source["data_fingerprint"]:
        yield f"the data set {source['data']} has changed"
    now = results.source["runs"]
    for name, facts in source["runs"].items():
        files = now.get(name, {}).get("files", {})
        changed = [file for file, digest in facts["files"].items() if files.get(file) != digest]
        if changed:
            yield f"{', '.join(changed)} of {name} changed after it was drawn"
    added = set(now) - set(source["runs"])
    if added:
        yield f"drawn before these runs existed: {', '.join(sorted(added))}"


def _check_metrics(file: Path, folder: Path, known: Known, verdict: Verdict) -> None:
    """Compare a run's test.json or retrieval.json with its predictions."""
    run, stored = known.runs[file.parent], read_json(file)
    by_head = file == run.test_file
    predictions = read_predictions(run) if by_head else read_retrieval_predictions(run)
    answers = (predictions["true"], predictions["predicted"], stored["classes"])
    counted = classification_metrics(*answers)
    if by_head:
        counted |= _prefixed(large_class_metrics(*answers))
        stored |= _prefixed(stored.get("large_classes"))
    verdict.take(
        [
            f"{_name(file, folder)}: {key} is {stored.get(key)}, but the predictions give {value}"
            for key, value in counted.items()
            if not np.allclose(stored.get(key, np.nan), value, rtol=0, atol=CLOSE)
        ]
    )


def _prefixed(metrics: dict[str, Any] | None) -> dict[str, Any]:
    return {f"large_classes.{name}": value for name, value in (metrics or {}).items()}


def _check_texts(numbers: Path, folder: Path, known: Known, verdict: Verdict) -> None:
    """Check numbers.tex and the chapter, if notebook 06 has been run."""
    everything = next((r for r in known.results.values() if r.part == "comparison"), None)
    if everything is None:
        return
    now = numbers_text(chapter_numbers(everything)).splitlines()
    before = [line for line in _lines(numbers) if not line.startswith("%")]
    differing = sorted(set(before) ^ set(now))
    more = f" and {len(differing) - 1} more lines" if len(differing) > 1 else ""
    verdict.take([f"{NUMBERS}: {differing[0]}{more} differ"] if differing else [])
    if (folder / BODY).is_file():
        for name, text in chapter_text(everything.config.data_name).items():
            same = (folder / name).is_file() and _lines(folder / name) == _without_commits(text)
            verdict.take([] if same else [f"{name} is outdated; run `thesis chapter` again"])
