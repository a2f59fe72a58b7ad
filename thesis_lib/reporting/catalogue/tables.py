"""Define every table of the results chapter: its name, how to compute it, and its caption."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from thesis_lib.data.statistics import class_imbalance
from thesis_lib.evaluation.ood import ood_table
from thesis_lib.evaluation.statistics import (
    LARGE,
    METRICS,
    comparison_matrix,
    comparison_table,
    most_confused,
    per_class_table,
)
from thesis_lib.reporting.catalogue import table_captions as captions
from thesis_lib.reporting.results import Results
from thesis_lib.reporting.table_files import write_table as write_files
from thesis_lib.reporting.tables import retrieval as retrieval_tables
from thesis_lib.reporting.tables import runs as tables
from thesis_lib.reporting.tables.balance import balance_table
from thesis_lib.reporting.tables.class_f1 import MOST_RUNS, class_f1_table
from thesis_lib.reporting.tables.elsewhere import elsewhere_table
from thesis_lib.reporting.tables.leaks import leak_table, metrics_without_leaks
from thesis_lib.reporting.tables.published import (
    published_lookup_table,
    published_probe_table,
    reproduced_table,
)
from thesis_lib.reporting.tables.rejection import rejection_by_class_table, rejection_table
from thesis_lib.reporting.tables.seeds import seed_pairs_table, seeds_table
from thesis_lib.reporting.tables.splits import split_loss_table, split_pairs_table, splits_table
from thesis_lib.reporting.tables.strata import strata_table
from thesis_lib.reporting.tables.subsets import group_table, size_table
from thesis_lib.reporting.tables.taxa import living_table, taxa_table
from thesis_lib.reporting.tables.training_worth import worth_table
from thesis_lib.system.files import read_json

Bold = Collection[tuple[int, str]]


@dataclass(frozen=True)
class Table:
    """A table of the chapter.

    ``make`` computes the table from the results. ``caption`` writes its caption as plain text
    and ``bold`` selects the cells to print bold, both from the results and the table.
    ``needs_data``: it is computed from the data set, not from the runs alone.
    """

    make: Callable[[Results], pd.DataFrame]
    caption: Callable[[Results, pd.DataFrame], str]
    decimals: int = 2
    bold: Callable[[Results, pd.DataFrame], Bold] = lambda results, table: ()
    needs_data: bool = False


def write_table(name: str, results: Results, folder: Path | None = None) -> pd.DataFrame:
    """Compute a table, write it as CSV, Markdown and LaTeX, and return it for display.

    An empty table is not written, and is returned without columns, so that a notebook shows none.

    Args:
        name: a key of :data:`TABLES`.
        results: the results to show.
        folder: where to write the table; by default the folder of the results.
    """
    entry = TABLES[name]
    table = entry.make(results)
    if table.empty:
        return pd.DataFrame()
    write_files(
        table,
        (folder or results.folder) / name,
        entry.caption(results, table),
        {**results.source, "name": name},
        entry.decimals,
        entry.bold(results, table),
        results.config.text_width,
    )
    return table


def _class_counts(results: Results) -> pd.DataFrame:
    counts = results.dataset.counts()
    return counts.assign(all=counts.sum(axis=1)).reset_index()


def _channels(results: Results) -> pd.DataFrame:
    statistics = results.statistics
    columns = {"mean": statistics.mean, "std": statistics.std}
    return pd.DataFrame({"channel": ["red", "green", "blue"], **columns}).round(4)


def _probe(results: Results) -> pd.DataFrame:
    if results.part == "probe":
        return tables.checkpoint_table(results.run)
    return tables.probe_table(results.runs)


def _best_accuracy(results: Results, table: pd.DataFrame) -> Bold:
    best = tables.shown_best(results.pairs) if len(table) > 1 else None
    return [(row, "accuracy") for row, name in enumerate(table["run"]) if name == best]


def _without_leaks(results: Results) -> pd.DataFrame:
    table = metrics_without_leaks(results.predictions, results.leaks, results.classes)
    rows = table.to_dict("records")
    cells = [tables.metric_cells(row) if row["images"] else {} for row in rows]
    shown = pd.DataFrame(cells, columns=list(METRICS)).fillna("")
    return table[["test images", "images"]].join(shown)


def _per_class(results: Results) -> pd.DataFrame:
    true, predicted = results.predictions["true"], results.predictions["predicted"]
    return per_class_table(true, predicted, results.classes)


def _counted_as_zero(results: Results) -> pd.DataFrame:
    rows = [
        {"classes that count as 0": reason, "number": len(names), "classes": ", ".join(names)}
        for reason, names in results.counted_as_zero.items()
    ]
    return pd.DataFrame(rows)


def _curve(results: Results) -> pd.DataFrame:
    choice = read_json(results.run.table_choice_file)
    return retrieval_tables.curve_table(results.run, choice["chosen_on"])


def _published_probe(results: Results) -> pd.DataFrame:
    return published_probe_table() if results.reproduces_dyb else pd.DataFrame()


def _reproduced(results: Results) -> pd.DataFrame:
    return reproduced_table(results.runs) if results.reproduces_dyb else pd.DataFrame()


TABLES = {
    "class_counts": Table(_class_counts, captions.class_counts, needs_data=True),
    "imbalance": Table(
        lambda r: class_imbalance(r.dataset.counts()), captions.imbalance, needs_data=True
    ),
    "channels": Table(_channels, captions.channels, decimals=4, needs_data=True),
    "leakage": Table(lambda r: leak_table(r.leaks, r.dataset), captions.leakage, needs_data=True),
    "probe": Table(_probe, captions.probe),
    "test": Table(lambda r: tables.test_table(r.runs), captions.test, bold=_best_accuracy),
    "large_classes": Table(
        lambda r: tables.large_classes_table(r.runs),
        captions.fixed(
            f"Macro metrics (%) over the classes with {LARGE} or more test images, with 95 % "
            "intervals computed as for all classes. Use these if the split did not fix the number "
            "of images of each class, as with a held-out cruise: then the intervals over all "
            "classes contained the true value in only 67 to 91 % of simulated test sets."
        ),
    ),
    "choices": Table(
        lambda r: tables.choices_table(r.runs),
        captions.fixed(
            "The tested checkpoint and head of each run, and their calibration: expected "
            "calibration error (ECE) in percentage points before and after temperature scaling, "
            "with the temperature fitted on the validation images."
        ),
    ),
    "comparison": Table(lambda r: comparison_table(r.pairs), captions.comparison),
    "comparison_matrix": Table(
        lambda r: comparison_matrix(r.pairs),
        captions.fixed(
            "Difference in test accuracy, row minus column, in percentage points, with the "
            "Holm-adjusted p value of the exact McNemar test. A star marks differences that are "
            "significant at the 5 % level."
        ),
    ),
    "seeds": Table(lambda r: seeds_table(r.over_seeds.summaries), captions.seeds),
    "seed_pairs": Table(lambda r: seed_pairs_table(r.over_seeds.pairs), captions.seed_pairs),
    "splits": Table(lambda r: splits_table(r.over_splits), captions.splits, needs_data=True),
    "split_pairs": Table(
        lambda r: split_pairs_table(r.over_splits), captions.split_pairs, needs_data=True
    ),
    "split_loss": Table(
        lambda r: split_loss_table(r.over_splits),
        captions.fixed(captions.SPLIT_LOSS),
        needs_data=True,
    ),
    "without_leaks": Table(_without_leaks, captions.without_leaks, needs_data=True),
    "counted_as_zero": Table(
        _counted_as_zero,
        captions.fixed("Classes that count as 0 in the macro means, and the reason."),
    ),
    "by_size": Table(
        lambda r: size_table(r.predictions, r.dataset.major_axes), captions.by_size, needs_data=True
    ),
    "strata": Table(
        lambda r: strata_table(r.runs, r.dataset.counts()["train"].to_dict()),
        captions.fixed(
            "Test metrics (%) over the classes with many, some and few training images, with 95 % "
            "intervals. Accuracy is that on the test images of these classes; precision, recall "
            "and F1 are averages over the classes."
        ),
        needs_data=True,
    ),
    "rejection": Table(lambda r: rejection_table(r.confidences), captions.rejection),
    "rejection_by_class": Table(
        lambda r: rejection_by_class_table(r.confidences), captions.rejection_by_class
    ),
    "balance": Table(
        lambda r: balance_table(r.runs),
        captions.fixed(
            "What sampling by class and balanced heads cost and gain: differences in percentage "
            "points, with paired 95 % intervals, from the run with natural sampling and a plain "
            "head whose other settings are the same; p of the exact McNemar test of the accuracies."
        ),
    ),
    "elsewhere": Table(
        lambda r: elsewhere_table(r.runs),
        captions.fixed(
            "Test on other data sets, with the classes matched by name: accuracy (%) with its 95 % "
            "interval, beside that on the run's own test split, and macro F1 (%) over the classes "
            "that occur. Images of classes that the run does not know are only counted."
        ),
    ),
    "by_group": Table(
        lambda r: group_table(r.predictions, r.dataset.groups), captions.by_group, needs_data=True
    ),
    "taxa": Table(
        lambda r: taxa_table(r.predictions, r.dataset.taxonomy), captions.taxa, needs_data=True
    ),
    "living": Table(
        lambda r: living_table(r.predictions, r.dataset.taxonomy),
        captions.fixed(
            "Test metrics (%) over the classes of organisms and over the others, with 95 % "
            "intervals. Accuracy is that on the test images of these classes; precision, recall "
            "and F1 are averages over the classes."
        ),
        needs_data=True,
    ),
    "most_confused": Table(lambda r: most_confused(r.confusion, r.classes), captions.most_confused),
    "per_class": Table(_per_class, captions.per_class, decimals=3),
    "class_f1": Table(
        lambda r: class_f1_table(r.runs),
        captions.fixed(
            "F1 (%) of each class on the test images with its 95 % interval, the class with the "
            f"lowest mean first. At most {MOST_RUNS} runs, those with the highest accuracy."
        ),
    ),
    "retrieval": Table(lambda r: retrieval_tables.retrieval_table(r.runs), captions.retrieval),
    "retrieval_size": Table(lambda r: retrieval_tables.size_table(r.runs), captions.size),
    "retrieval_curve": Table(_curve, captions.curve, decimals=3),
    "retrieval_test_curve": Table(
        lambda r: retrieval_tables.curve_table(r.run, "test"),
        captions.fixed(
            "The look-up table at each pruning threshold, evaluated on the test images. These "
            "values were not used to select the threshold."
        ),
        decimals=3,
    ),
    "published_lookup": Table(lambda r: published_lookup_table(r.run), captions.published_lookup),
    "learning_curve": Table(
        lambda r: retrieval_tables.learning_table(r.learning_curve),
        captions.fixed(
            "Accuracy and macro F1 (%) on the validation images of heads trained on at most so "
            "many images of each class, with 95 % intervals over random choices of the images and "
            "over validation images. The backbone is the same throughout, and the head epoch was "
            "selected on the same images."
        ),
    ),
    "ood": Table(lambda r: ood_table(r.ood), captions.ood),
    "cost": Table(
        lambda r: tables.cost_table(r.runs),
        captions.fixed("Elapsed time and peak memory of pretraining."),
    ),
    "training_worth": Table(
        lambda r: worth_table(r.runs),
        captions.fixed(
            "Is the training worth it? Method, initial weights and training time of each run, "
            "with its test accuracy and macro F1 (%) and their 95 % intervals."
        ),
    ),
    "published_probe": Table(
        _published_probe, captions.fixed("Published validation accuracy (%) / head epoch.")
    ),
    "reproduced": Table(_reproduced, captions.fixed("Published and reproduced test metrics (%).")),
    "selection": Table(
        lambda r: tables.selection_table(r.selection),
        captions.fixed(
            "The selected checkpoint and head epoch, with the highest validation accuracy."
        ),
    ),
    "table_choice": Table(
        lambda r: retrieval_tables.choice_table(read_json(r.run.table_choice_file)),
        captions.fixed("The selected look-up table, and the images it was selected on."),
    ),
}
