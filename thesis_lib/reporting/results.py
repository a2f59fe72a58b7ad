"""Provide what figures and tables show: results of a data set, of one run or of all runs."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from thesis_lib.config import RunConfig, data_set_name
from thesis_lib.data.datasets import DataSet, open_dataset, open_splits
from thesis_lib.data.leakage import find_leaks
from thesis_lib.data.legend import find_legend
from thesis_lib.data.statistics import DataStatistics, data_statistics
from thesis_lib.evaluation.statistics import (
    Comparison,
    compare_runs,
    compare_with_head,
    confusion_counts,
)
from thesis_lib.reporting.sources import source_of
from thesis_lib.reporting.tables.published import reproduces_dyb
from thesis_lib.reporting.tables.retrieval import learning_sentence, misleading
from thesis_lib.reporting.tables.seeds import OverSeeds
from thesis_lib.reporting.tables.splits import OverSplits
from thesis_lib.reporting.tables.training_worth import worth_sentence
from thesis_lib.runs.artifacts import (
    check_data_name,
    check_trained_on,
    read_confidences,
    read_learning_curve,
    read_ood,
    read_predictions,
    read_retrieval,
    read_retrieval_predictions,
)
from thesis_lib.runs.directory import RunDirectory, find_runs
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import read_json
from thesis_lib.system.paths import data_runs_folder, figures_folder


@dataclass(frozen=True)
class Results:
    """The results shown in one part of the chapter; they are read when first used.

    ``part`` is a key of :data:`thesis_lib.reporting.sources.FILES`: "data" (notebook 01), one of
    RUN_PARTS (notebooks 02 to 05, for the one run in ``runs``), "comparison" (notebook 06, for all
    runs on the data set) or "splits" (notebook 06, for all runs on several splits of the same
    images).
    ``folder`` is where the figures and tables are written.
    """

    part: str
    config: RunConfig
    runs: tuple[RunDirectory, ...]
    folder: Path

    @property
    def run(self) -> RunDirectory:
        """The run, if the results are those of a single run."""
        (run,) = self.runs
        return run

    @cached_property
    def dataset(self) -> DataSet:
        """The data set, which must be on this machine.

        Raises:
            InputError: if it is missing, or not the data set that the runs were trained on.
        """
        cut = self.config.crop_bottom
        dataset = open_dataset(self.config.data, crop_bottom=cut)
        for run in self.runs:
            if run.config.crop_bottom == cut:
                check_trained_on(run, self.config.data, dataset.fingerprint)
        return dataset

    @cached_property
    def statistics(self) -> DataStatistics:
        """The image sizes and channel statistics of the data set."""
        return data_statistics(self.dataset)

    @property
    def legend_words(self) -> str:
        """What was found at the same place of most training images: a legend, or nothing."""
        found = find_legend(self.dataset.splits["train"])
        cut = self.dataset.crop_bottom
        left = f" above the {cut} rows that are cut off" if cut else ""
        return str(found or f"no legend or scale bar was found in the bottom corners{left}")

    @cached_property
    def leaks(self) -> pd.DataFrame:
        """The images of val and test that have a counterpart in an earlier split."""
        return find_leaks(self.dataset, self.config.duplicate_distance, self.config.group_by)

    @cached_property
    def classes(self) -> list[str]:
        """The names of all classes of the tested run, in label order."""
        return read_json(self.run.test_file)["classes"]

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """The run's predictions, one row per test image."""
        return read_predictions(self.run)

    @cached_property
    def confidences(self) -> pd.DataFrame:
        """The calibrated confidences of the run's validation and test images."""
        return read_confidences(self.run)

    @cached_property
    def confusion(self) -> np.ndarray:
        """The confusion matrix: test images by true class (rows) and predicted class (columns)."""
        true, predicted = self.predictions["true"], self.predictions["predicted"]
        return confusion_counts(true, predicted, self.classes)

    @cached_property
    def counted_as_zero(self) -> dict[str, list[str]]:
        """The classes that count as 0 in the macro means, by the reason."""
        lacking = {
            "without a test image": self.confusion.sum(1) == 0,
            "never predicted": (self.confusion.sum(0) == 0) & (self.confusion.sum(1) > 0),
        }
        return {
            reason: [name for name, lacks in zip(self.classes, mask, strict=True) if lacks]
            for reason, mask in lacking.items()
        }

    @cached_property
    def selection(self) -> dict[str, Any]:
        """The content of the run's ``selection.json``."""
        return read_json(self.run.selection_file)

    @property
    def reproduces_dyb(self) -> bool:
        """Whether the runs use DYB-PlanktonNet, the data set of the published results."""
        return reproduces_dyb(self.runs)

    @cached_property
    def runs_with_lookup_table(self) -> list[RunDirectory]:
        """The runs whose look-up table was tested."""
        return [run for run in self.runs if is_done(run, "retrieve")]

    @cached_property
    def retrieval(self) -> pd.DataFrame:
        """The run's retrieval results, one row per pruning threshold and split."""
        return read_retrieval(self.run)

    @cached_property
    def misleading(self) -> pd.DataFrame:
        """The run's test images whose nearest image in the look-up table has another class."""
        return misleading(read_retrieval_predictions(self.run))

    @cached_property
    def against_head(self) -> str:
        """A sentence comparing the accuracies of the run's look-up table and head."""
        pair = compare_with_head(self.run)
        if pair is None:
            return "the head was not tested, so the look-up table cannot be compared with it"
        return pair.sentence

    @cached_property
    def ood(self) -> pd.DataFrame:
        """The results of OOD detection, one row per fold and score; empty for few classes."""
        return read_ood(self.run)

    @cached_property
    def learning_curve(self) -> pd.DataFrame:
        """The head's accuracy against the number of images per class; empty for earlier runs."""
        return read_learning_curve(self.run)

    @property
    def learning_sentence(self) -> str:
        """How much the last step of the learning curve gained, as a sentence."""
        return learning_sentence(self.learning_curve)

    @cached_property
    def pairs(self) -> list[Comparison]:
        """The comparisons of all pairs of tested runs."""
        return compare_runs(self.runs)

    @cached_property
    def over_seeds(self) -> OverSeeds:
        """The results of the tested runs over their seeds."""
        return OverSeeds(self.runs)

    @cached_property
    def splits(self) -> "Results":
        """The results of all runs on this data set and on ``other_splits`` of the same images."""
        return results_of_splits(self.config)

    @cached_property
    def over_splits(self) -> OverSplits:
        """The results of the tested runs over several splits of the same images."""
        datas = (self.config.data, *self.config.other_splits)
        return OverSplits(open_splits(datas, self.config.crop_bottom), self.runs)

    @property
    def worth_sentence(self) -> str:
        """Whether training the backbone was worth it, as a sentence."""
        return worth_sentence(self.runs, self.pairs)

    @cached_property
    def source(self) -> dict[str, Any]:
        """What the figures and tables are made from, which is stored with each of them."""
        fingerprint = "" if self.runs else self.dataset.fingerprint
        return source_of(self.part, self.config, self.runs, fingerprint)


def results_of_data(config: RunConfig) -> Results:
    """Return the results of the data set, which notebook 01 shows.

    Raises:
        InputError: if the data set is missing, or runs on another data set have their results
            where those of this one would go.
    """
    results = data_results(config)
    if not config.force:
        check_data_name(config.data, results.dataset.fingerprint)
    return results


def data_results(config: RunConfig) -> Results:
    """Return the results of the data set, which may be missing or have changed."""
    return Results("data", config, (), figures_folder(config.data_name))


def results_of_run(run: RunDirectory, part: str) -> Results:
    """Return the results of a run, which notebooks 02 to 05 show.

    Args:
        run: the run.
        part: one of RUN_PARTS: "pretrain" (notebook 02), "probe" (03), "test" (04) or "retrieve"
            (05).
    """
    return Results(part, run.config, (run,), run.figures)


def results_of_runs(config: RunConfig) -> Results:
    """Return the results of all runs on a data set, which notebook 06 compares."""
    runs = tuple(find_runs(config.data_name))
    if runs:  # of runs that differ in it, the first counts
        config = config.updated(crop_bottom=runs[0].config.crop_bottom)
    return Results("comparison", config, runs, figures_folder(config.data_name))


def results_of_splits(config: RunConfig) -> Results:
    """Return the results of all runs on several splits of the same images, for notebook 06."""
    names = (config.data_name, *map(data_set_name, config.other_splits))
    runs = tuple(run for name in names for run in find_runs(name))
    return Results("splits", config, runs, figures_folder(config.data_name, len(names) - 1))


def reopen(source: dict[str, Any]) -> Results:
    """Return the current results for a recorded source.

    Raises:
        InputError: if the run or the data set no longer exists.
    """
    config = RunConfig(**{"data": source["data"], **source["settings"]})
    of_all = {"data": data_results, "comparison": results_of_runs, "splits": results_of_splits}
    if source["part"] in of_all:
        return of_all[source["part"]](config)
    run = RunDirectory.open(data_runs_folder(config.data_name) / next(iter(source["runs"])))
    run = RunDirectory(run.config.updated(**source["settings"]))
    return results_of_run(run, source["part"])
