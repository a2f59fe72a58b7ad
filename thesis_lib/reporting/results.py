"""What figures and tables are made from: a data set, one run, or all runs, with its provenance."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from thesis_lib.config import DISPLAY_FIELDS, RunConfig
from thesis_lib.data.datasets import DataSet, open_dataset
from thesis_lib.data.leakage import find_leaks
from thesis_lib.data.statistics import DataStatistics, data_statistics
from thesis_lib.errors import InputError
from thesis_lib.evaluation.comparison import Comparison, compare_runs, compare_with_head
from thesis_lib.evaluation.metrics import confusion_counts
from thesis_lib.reporting.published_results import reproduces_dyb
from thesis_lib.runs.artifacts import (
    read_predictions,
    read_retrieval,
    read_retrieval_predictions,
    trained_fingerprint,
)
from thesis_lib.runs.directory import RunDirectory, find_runs
from thesis_lib.runs.provenance import code_commit
from thesis_lib.runs.stages import is_retrieved
from thesis_lib.system.files import file_digest, read_json
from thesis_lib.system.paths import figures_folder

# What the figures and tables of a notebook are made from, by the part of the chapter.
FILES = {
    "data": (),
    "pretrain": ("metrics_file",),
    "probe": ("probe_file", "probe_curves_file", "selection_file"),
    "test": ("test_file", "predictions_file", "embedding_file", "calibration_file"),
    "retrieve": (
        *("retrieval_file", "ood_file", "table_choice_file"),
        *("retrieval_test_file", "retrieval_predictions_file"),
    ),
    "comparison": (
        *("metrics_file", "probe_file", "test_file", "predictions_file"),
        *("retrieval_test_file", "retrieval_predictions_file"),
    ),
}
RUN_PARTS = ("pretrain", "probe", "test", "retrieve")


@dataclass(frozen=True)
class Results:
    """One part of the chapter: what its figures and tables show, and where they go.

    ``part`` is one of FILES: "data" (notebook 01), one of RUN_PARTS (02 to 05, of the one run in
    ``runs``) or "comparison" (06, of all runs on the data set). ``folder`` is that of the figures.
    """

    part: str
    config: RunConfig
    runs: tuple[RunDirectory, ...]
    folder: Path

    @property
    def run(self) -> RunDirectory:
        """The one run that this is about."""
        (run,) = self.runs
        return run

    @cached_property
    def dataset(self) -> DataSet:
        """The data set, which has to be on this disk.

        Raises:
            InputError: where it is not there, or no longer the one that the runs are of.
        """
        dataset = open_dataset(self.config.data)
        for run in self.runs:
            trained = trained_fingerprint(run)
            if trained not in (None, dataset.fingerprint):
                raise InputError(
                    f"{self.config.data} has changed since {run.path.name} was trained on it "
                    f"(fingerprint {trained}, now {dataset.fingerprint}); put it back as it was"
                )
        return dataset

    @cached_property
    def statistics(self) -> DataStatistics:
        """Sizes and channel statistics of the data set."""
        return data_statistics(self.dataset)

    @cached_property
    def leaks(self) -> pd.DataFrame:
        """Images of val and test with a counterpart in an earlier part."""
        return find_leaks(self.dataset, self.config.duplicate_distance, self.config.group_by)

    @cached_property
    def classes(self) -> list[str]:
        """The classes of the tested run's data set, in their order."""
        return read_json(self.run.test_file)["classes"]

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """A row a test image of the run."""
        return read_predictions(self.run)

    @cached_property
    def confusion(self) -> np.ndarray:
        """Test images by true (rows) and predicted (columns) class."""
        true, predicted = self.predictions["true"], self.predictions["predicted"]
        return confusion_counts(true, predicted, self.classes)

    @cached_property
    def counted_as_zero(self) -> dict[str, list[str]]:
        """The classes that count as 0 in the macro means, by what they lack in the test."""
        lacking = {
            "without a test image": self.confusion.sum(1) == 0,
            "never predicted": (self.confusion.sum(0) == 0) & (self.confusion.sum(1) > 0),
        }
        return {
            words: [name for name, lacks in zip(self.classes, those, strict=True) if lacks]
            for words, those in lacking.items()
        }

    @cached_property
    def selection(self) -> dict[str, Any]:
        """The content of the run's ``selection.json``."""
        return read_json(self.run.selection_file)

    @property
    def reproduces_dyb(self) -> bool:
        """Whether the runs are on the data set that the published values are of."""
        return reproduces_dyb(self.runs)

    @cached_property
    def runs_with_lookup_table(self) -> list[RunDirectory]:
        """The runs whose look-up table was tested."""
        return [run for run in self.runs if is_retrieved(run)]

    @cached_property
    def retrieval(self) -> pd.DataFrame:
        """A row a pruning threshold and split of the run's look-up table."""
        return read_retrieval(self.run)

    @cached_property
    def misleading(self) -> pd.DataFrame:
        """The run's test images whose nearest image in the table is of another class."""
        return misleading(read_retrieval_predictions(self.run))

    @cached_property
    def against_head(self) -> str:
        """Whether the run's look-up table is shown to differ from its linear head, in words."""
        pair = compare_with_head(self.run)
        if pair is None:
            return "the linear head was not tested: there is nothing to compare with"
        return pair.sentence

    @cached_property
    def ood(self) -> pd.DataFrame:
        """A row a part of the classes and score, of how ood is found; may be empty."""
        try:
            return pd.read_csv(self.run.ood_file)
        except pd.errors.EmptyDataError:  # too few classes to leave any out
            return pd.DataFrame()

    @cached_property
    def pairs(self) -> list[Comparison]:
        """All pairs of tested runs."""
        return compare_runs(self.runs)

    @cached_property
    def source(self) -> dict[str, Any]:
        """What every figure and table says of where it comes from.

        Data set and its fingerprint; of each run the commits of its stages and hashes of the
        files that were read; the commit of the code that drew and counted; one line of it all.
        """
        if self.runs:
            fingerprints = {trained_fingerprint(run) for run in self.runs} - {None}
            fingerprint = ", ".join(sorted(fingerprints)) or "unknown"
        else:
            fingerprint = self.dataset.fingerprint
        runs = {
            run.path.name: {
                "commits": stage_commits(run),
                "files": {
                    file.name: digest[:16]
                    for file in (getattr(run, kind) for kind in FILES[self.part])
                    if (digest := file_digest(file))
                },
            }
            for run in self.runs
        }
        if self.part == "comparison":  # a run that has just begun shows nowhere
            runs = {name: facts for name, facts in runs.items() if facts["files"]}
        commit = code_commit() or "unknown"
        named = ", ".join(runs) or "none"
        return {
            "line": f"data set {self.config.data_name} (fingerprint {fingerprint}); "
            f"runs: {named}; code: {commit}",
            "label": self.run.path.name if self.part in RUN_PARTS else "",
            "part": self.part,
            "data": self.config.data,
            "data_fingerprint": fingerprint,
            "commit": commit,
            "settings": {name: getattr(self.config, name) for name in DISPLAY_FIELDS},
            "runs": runs,
        }


def results_of_data(config: RunConfig) -> Results:
    """What notebook 01 shows."""
    return Results("data", config, (), figures_folder(config.data_name))


def results_of_run(run: RunDirectory, part: str) -> Results:
    """What notebook 02, 03, 04 or 05 shows of a run: the part of RUN_PARTS in this order."""
    return Results(part, run.config, (run,), run.figures)


def results_of_runs(config: RunConfig) -> Results:
    """What notebook 06 shows of all runs on a data set."""
    runs = tuple(find_runs(config.data_name))
    return Results("comparison", config, runs, figures_folder(config.data_name))


def stage_commits(run: RunDirectory) -> dict[str, str]:
    """The commit of the code that each stage of a run was computed with last."""
    entries = read_json(run.provenance_file) if run.provenance_file.is_file() else []
    return {entry["stage"]: entry.get("git_commit") or "unknown" for entry in entries}


def misleading(predictions: pd.DataFrame) -> pd.DataFrame:
    """Test images whose nearest image in the table is of another class, most similar first.

    Args:
        predictions: of :func:`read_retrieval_predictions`.

    Returns:
        path, true, nearest, nearest_class, similarity.
    """
    classes = predictions["nearest"].map(lambda file: Path(file).parent.name)
    wrong = predictions.assign(nearest_class=classes)[classes != predictions["true"]]
    wrong = wrong.sort_values("similarity", ascending=False, kind="stable")
    return wrong[["path", "true", "nearest", "nearest_class", "similarity"]].reset_index(drop=True)
