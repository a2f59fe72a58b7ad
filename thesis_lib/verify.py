"""Do the figures and tables of a folder still agree with the runs? Made again, and compared."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from thesis_lib.catalogue import TABLES, write_table
from thesis_lib.chapter import BODY, DOCUMENT, NUMBERS, chapter_text
from thesis_lib.config import InputError, RunConfig
from thesis_lib.evaluate import METRICS, classification_metrics
from thesis_lib.figures import SOURCE
from thesis_lib.files import read_json
from thesis_lib.quoted_numbers import chapter_numbers, numbers_text
from thesis_lib.results import (
    Results,
    file_digest,
    results_of_data,
    results_of_run,
    results_of_runs,
)
from thesis_lib.runs import RunDirectory, data_runs_folder, relative_to_root
from thesis_lib.stages import is_tested

CLOSE = 1e-9  # between a metric on disk and the same counted again


@dataclass
class Verdict:
    """What agrees with the runs (its number), what does not, and what nothing is known of."""

    agree: int = 0
    differ: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def take(self, faults: list[str]) -> None:
        """Count one thing that was checked."""
        self.differ += faults
        self.agree += not faults


def verify(folder: Path) -> Verdict:
    """Make every table and number again, and hold them and the figures against the runs.

    Tables, ``numbers.tex`` and the chapter are made anew from the runs; a figure tells which
    files it was drawn from, and their hashes. The metrics of every run's ``test.json`` are
    counted again from its predictions.

    Args:
        folder: ``figures/<data>``, or a copy of it.

    Raises:
        InputError: where there are no figures or tables.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".csv", ".png", ".pdf"))
    if not files:
        raise InputError(f"{folder} holds no figures or tables; give a folder such as figures/NAME")
    verdict, known = Verdict(), Known()
    stems = sorted({path.with_suffix("") for path in files} - {folder / Path(DOCUMENT).stem})
    for stem in stems:
        name = stem.relative_to(folder).as_posix()
        if stem.with_name(f"{stem.name}.csv").is_file():
            _check_table(stem, name, known, verdict)
        if any(stem.with_name(f"{stem.name}{kind}").is_file() for kind in (".png", ".pdf")):
            _check_figure(stem, name, known, verdict)
    for run in known.runs.values():
        verdict.take(list(_metric_faults(run)))
    _check_texts(folder, known, verdict)
    return verdict


class Known:
    """Results by what made them, so that predictions and leaks are read once."""

    def __init__(self) -> None:
        self.results: dict[str, Results] = {}
        self.runs: dict[str, RunDirectory] = {}

    def results_of(self, source: dict[str, Any]) -> Results:
        """The results as they are now, of what a source speaks of.

        Raises:
            InputError: where the run or the data set is gone.
        """
        name = next(iter(source["runs"]), "") if source["part"] != "comparison" else ""
        key = json.dumps((source["part"], source["data"], name, source["settings"]))
        if key not in self.results:
            self.results[key] = self._open(source, name)
            self.runs |= {run.path.name: run for run in self.results[key].runs if is_tested(run)}
        return self.results[key]

    def _open(self, source: dict[str, Any], name: str) -> Results:
        config = RunConfig(**{"data": source["data"], **source["settings"]})
        if source["part"] == "data":
            return results_of_data(config)
        if source["part"] == "comparison":
            return results_of_runs(config)
        run = RunDirectory.open(data_runs_folder(config.data_name) / name)
        run = RunDirectory(run.config.updated(**source["settings"]))
        return results_of_run(run, source["part"])


def _check_table(stem: Path, name: str, known: Known, verdict: Verdict) -> None:
    told = stem.with_name(f"{stem.name}.json")
    if not told.is_file() or stem.name not in TABLES:
        verdict.unknown.append(f"{name}.csv")
        return
    try:
        results = known.results_of(read_json(told)["source"])
        with tempfile.TemporaryDirectory() as scratch:
            again = replace(results, folder=Path(scratch))
            write_table(stem.name, again)
            verdict.take(list(_table_faults(stem, name, Path(scratch) / stem.name)))
    except InputError as error:
        verdict.take([f"{name}.csv cannot be made again: {error}"])


def _table_faults(stem: Path, name: str, again: Path) -> Iterator[str]:
    new = again.with_name(f"{again.name}.csv")
    if not new.is_file():
        yield f"{name}.csv: made again, it has no row"
        return
    before, now = (_cells(path.with_name(f"{path.name}.csv")) for path in (stem, again))
    if before.shape != now.shape or list(before) != list(now):
        yield f"{name}.csv: has {_shape(before)}, made again {_shape(now)}"
    elif not before.equals(now):
        rows, columns = np.nonzero((before != now).to_numpy())
        row, column = rows[0], before.columns[columns[0]]
        more = f" ({len(rows)} cells differ)" if len(rows) > 1 else ""
        yield (
            f"{name}.csv: {column!r} of {before.iloc[row, 0]!r} is {before[column].iloc[row]!r}, "
            f"made again {now[column].iloc[row]!r}{more}"
        )
    for ending in (".md", ".tex"):
        ours, theirs = (path.with_name(path.name + ending) for path in (stem, again))
        if not ours.is_file():
            yield f"{name}{ending} is not there"
        elif _without_comments(ours) != _without_comments(theirs):
            yield f"{name}{ending} is not as it comes out now"


def _cells(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype=str, keep_default_na=False)


def _shape(table: pd.DataFrame) -> str:
    return f"{len(table)} rows and {len(table.columns)} columns"


def _without_comments(file: Path) -> list[str]:
    """Its lines but those that name commits, which change with the code."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("%")]


def _check_figure(stem: Path, name: str, known: Known, verdict: Verdict) -> None:
    png, pdf = (stem.with_name(f"{stem.name}{ending}") for ending in (".png", ".pdf"))
    told = _told(png)
    if told is None:
        verdict.unknown.append(f"{name}{'.png' if png.is_file() else '.pdf'}")
        return
    faults = [f"{name}: {fault}" for fault in _source_faults(json.loads(told), known)]
    if not pdf.is_file():
        faults.append(f"{name}.pdf is not there")
    elif _in_pdf(told) not in pdf.read_bytes():
        faults.append(f"{name}.pdf was not drawn together with {name}.png")
    verdict.take(faults)


def _told(png: Path) -> str | None:
    """What a PNG says it was made from."""
    if not png.is_file():
        return None
    with Image.open(png) as image:
        return image.info.get(SOURCE)


def _in_pdf(text: str) -> bytes:
    """An ASCII text as matplotlib writes it into a PDF."""
    for character in "\\()":
        text = text.replace(character, f"\\{character}")
    return f"({text})".encode("ascii")


def _source_faults(source: dict[str, Any], known: Known) -> Iterator[str]:
    """What has changed since a figure was drawn."""
    try:
        results = known.results_of(source)
        if source["part"] == "data" and results.dataset.fingerprint != source["data_fingerprint"]:
            yield f"the data set {source['data']} has changed"
    except InputError as error:
        yield f"cannot be checked: {error}"
        return
    folder = data_runs_folder(results.config.data_name)
    for name, facts in source["runs"].items():
        changed = [
            f for f, digest in facts["files"].items() if file_digest(folder / name / f) != digest
        ]
        if changed:
            yield f"{', '.join(changed)} of {name} changed after it was drawn"
    if source["part"] == "comparison":
        added = {run.path.name for run in results.runs} - set(source["runs"])
        if added:
            yield f"drawn before there were the runs {', '.join(sorted(added))}"


def _metric_faults(run: RunDirectory) -> Iterator[str]:
    """Where a run's test.json is not what its predictions give."""
    stored = read_json(run.test_file)
    predictions = Results("test", run.config, (run,), run.figures).predictions
    counted = classification_metrics(
        predictions["true"], predictions["predicted"], stored["classes"]
    )
    for metric in METRICS:
        if abs(stored[metric] - counted[metric]) > CLOSE:
            yield (
                f"{relative_to_root(run.test_file)}: {metric} is {stored[metric]:.6f}, but "
                f"predictions.csv gives {counted[metric]:.6f}"
            )


def _check_texts(folder: Path, known: Known, verdict: Verdict) -> None:
    """numbers.tex and the chapter, where they are there."""
    everything = next((r for r in known.results.values() if r.part == "comparison"), None)
    numbers = folder / NUMBERS
    if everything and numbers.is_file():
        now = numbers_text(chapter_numbers(everything)).splitlines()
        before = _without_comments(numbers)
        differing = sorted(set(before) ^ set(now))
        more = f" and {len(differing) - 1} more lines" if len(differing) > 1 else ""
        verdict.take([f"{NUMBERS}: {differing[0]}{more} differ"] if differing else [])
    if everything and (folder / BODY).is_file():
        for name, text in chapter_text(everything.config.data_name).items():
            lines = [line for line in text.splitlines() if not line.startswith("%")]
            same = (folder / name).is_file() and _without_comments(folder / name) == lines
            verdict.take([] if same else [f"{name} is not as it comes out now: `thesis chapter`"])
