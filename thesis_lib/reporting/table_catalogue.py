"""Every table of the results chapter: its name, how it is made, and its caption.

Notebooks write tables by their names, `thesis verify` makes them again, `thesis chapter` prints
them.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from thesis_lib import figures
from thesis_lib.data.leakage import leak_table, metrics_without_leaks
from thesis_lib.data.statistics import class_imbalance
from thesis_lib.evaluation.comparison import comparison_matrix, comparison_table
from thesis_lib.evaluation.metrics import METRICS, most_confused, per_class_table
from thesis_lib.evaluation.novelty import FOLDS, novelty_table
from thesis_lib.evaluation.pruning_curve import MARGIN
from thesis_lib.evaluation.retrieval import CHOSEN_ON
from thesis_lib.reporting import retrieval_tables, tables
from thesis_lib.reporting.published_results import published_probe_table, reproduced_table
from thesis_lib.reporting.results import Results
from thesis_lib.reporting.table_files import write_table as write_files
from thesis_lib.system.files import read_json

Bold = Collection[tuple[int, str]]


@dataclass(frozen=True)
class Table:
    """A table of the chapter.

    ``make`` gives its rows, ``caption`` its caption (plain text) and ``bold`` the cells that are
    the best by a test, each from the results and, the latter two, from the rows.
    """

    make: Callable[[Results], pd.DataFrame]
    caption: Callable[[Results, pd.DataFrame], str]
    decimals: int = 2
    bold: Callable[[Results, pd.DataFrame], Bold] = lambda results, table: ()


def write_table(name: str, results: Results, folder: Path | None = None) -> pd.DataFrame:
    """Make a table, write it to a folder (that of the figures) in all its forms, and return it.

    One without a row is not written: there is nothing to print yet.
    """
    entry = TABLES[name]
    table = entry.make(results)
    if len(table):
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


def save_figure(name: str, figure: Figure, results: Results) -> Figure:
    """Write a figure as PDF and PNG to the figures' folder, and return it to be shown."""
    figures.save(figure, results.folder / name, {**results.source, "name": name})
    return figure


def _class_counts(results: Results) -> pd.DataFrame:
    counts = results.dataset.counts()
    return counts.assign(all=counts.sum(axis=1)).reset_index()


def _class_counts_caption(results: Results, table: pd.DataFrame) -> str:
    parts = [f"{table[split].sum():,} in {split}" for split in results.dataset.splits]
    return (
        f"Images of {results.config.data_name} per class and part: {', '.join(parts)}, "
        f"{len(table)} classes."
    )


def _imbalance_caption(results: Results, table: pd.DataFrame) -> str:
    ratio = table.set_index("split").loc["train", "imbalance_ratio"]
    return (
        "Imbalance of the classes in each part: Gini coefficient, ratio of the largest to the "
        f"smallest class (in train {ratio:,.1f}), evenness of the entropy."
    )


def _channels(results: Results) -> pd.DataFrame:
    statistics = results.statistics
    columns = {"mean": statistics.mean, "std": statistics.std}
    return pd.DataFrame({"channel": ["red", "green", "blue"], **columns}).round(4)


def _channels_caption(results: Results, table: pd.DataFrame) -> str:
    return (
        "Mean and standard deviation of the channels, on a scale of 0 to 1, over the "
        f"{results.statistics.pixels:,} pixels of the training images."
    )


def _leakage_caption(results: Results, table: pd.DataFrame) -> str:
    group = results.config.group_by
    groups = f"; groups by the pattern {group}" if group else ""
    return (
        "Images of val and test with a counterpart in an earlier part. Near-duplicates differ in "
        f"up to {results.config.duplicate_distance} of the 64 bits of their perceptual hashes"
        f"{groups}; other label: the counterpart has another class."
    )


def _probe(results: Results) -> pd.DataFrame:
    if results.part == "probe":
        return tables.checkpoint_table(results.run)
    return tables.probe_table(results.runs)


def _probe_caption(results: Results, table: pd.DataFrame) -> str:
    caption = (
        "Validation accuracy (%) / head epoch that reached it, for every probed checkpoint. "
        "A star marks the chosen one."
    )
    if results.part == "probe":
        against = read_json(results.run.selection_file)["against_last"]
        caption += f" {against[0].upper()}{against[1:]}."
        if "nearest neighbour" in table:
            caption += " Beside it, the accuracy of the nearest training image by cosine (%)."
    return caption


def _test_caption(results: Results, table: pd.DataFrame) -> str:
    images = " or ".join(f"{n:,}" for n in sorted(set(table["n"])))
    caption = (
        f"Metrics (%) on {images} test images, with 95 % intervals: Wilson's for accuracy, a "
        "bootstrap's over test images for the macro means over all classes."
    )
    if results.part == "test":
        for words, names in results.counted_as_zero.items():
            if names:
                caption += f" Classes {words} count as 0: {', '.join(names)}."
    seen = table.loc[table["choices tested"] > 1, "run"].tolist()
    if seen:
        caption += f" The test set had been seen before the last choice of {', '.join(seen)}."
    if len(table) > 1:
        best = tables.shown_best(results.pairs)
        caption += (
            f" Bold: {best} is shown to be more accurate than every other run."
            if best
            else " No run is shown to be more accurate than every other one."
        )
    return caption


def _best_accuracy(results: Results, table: pd.DataFrame) -> Bold:
    best = tables.shown_best(results.pairs) if len(table) > 1 else None
    return [(row, "accuracy") for row, name in enumerate(table["run"]) if name == best]


def _without_leaks(results: Results) -> pd.DataFrame:
    table = metrics_without_leaks(results.predictions, results.leaks, results.classes)
    shown = table[["test images", "images"]].copy()
    for name in METRICS:
        bounds = table[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False)
        shown[name] = [
            "" if pd.isna(value) else tables.percent_with_interval(value, interval)
            for value, *interval in bounds
        ]
    return shown


def _without_leaks_caption(results: Results, table: pd.DataFrame) -> str:
    if len(table) == 1:
        return "Test metrics (%) with 95 % intervals: no test image leaks."
    return (
        "Test metrics (%) with 95 % intervals, over all test images and without those that have "
        "a counterpart in train or val. A class with no image left counts as 0."
    )


def _most_confused_caption(results: Results, table: pd.DataFrame) -> str:
    worst = table.iloc[0]
    return (
        f"Most confused pairs of classes: {worst['images']} images of {worst['class_a']} and "
        f"{worst['class_b']} were taken for the other."
    )


def _per_class(results: Results) -> pd.DataFrame:
    true, predicted = results.predictions["true"], results.predictions["predicted"]
    return per_class_table(true, predicted, results.classes)


def _per_class_caption(results: Results, table: pd.DataFrame) -> str:
    tested = table[table["images"] > 0].sort_values("f1")
    weakest = ", ".join(f"{row['class']} ({row['f1']:.2f})" for _, row in tested[:3].iterrows())
    return f"Precision, recall and F1 of each class. The lowest F1: {weakest}."


def _retrieval_caption(results: Results, table: pd.DataFrame) -> str:
    caption = (
        "The cosine look-up table, at the threshold that was chosen for it, on the test images: "
        "metrics (%) with 95 % intervals."
    )
    seen = table.loc[table["choices tested"] > 1, "run"].tolist()
    if seen:
        caption += f" Another table had been tested before of {', '.join(seen)}."
    return caption


def _size_caption(results: Results, table: pd.DataFrame) -> str:
    # All runs are on one data set, which has a val/ or has none.
    choice = read_json(results.tabled[0].table_choice_file)
    return (
        "Size and speed of the cosine look-up table at the chosen pruning threshold. Chosen on "
        f"{CHOSEN_ON[choice['chosen_on']]}: the smallest table that is neither shown to be worse "
        f"than the unpruned one nor measures worse by more than {100 * MARGIN:g} points. Less "
        "head: accuracy less the linear head's on the same test images, in points, with its "
        "paired interval and the exact McNemar test's p."
    )


def _curve(results: Results) -> pd.DataFrame:
    choice = read_json(results.run.table_choice_file)
    return retrieval_tables.curve_table(results.run, choice["chosen_on"])


def _curve_caption(results: Results, table: pd.DataFrame) -> str:
    choice = read_json(results.run.table_choice_file)
    return (
        f"The look-up table against its pruning threshold, on {CHOSEN_ON[choice['chosen_on']]}: "
        "size of the vectors, time of the search, metrics in % with 95 % intervals, accuracy less "
        "the full table's in points, and the imbalance of its classes. Chosen is "
        f"{choice['threshold']:.2f}."
    )


def _novelty_caption(results: Results, table: pd.DataFrame) -> str:
    return (
        f"How well images of classes left out of table and head are told from the others, in %: "
        f"mean, and lowest to highest, of up to {FOLDS} parts of the classes. The backbone has "
        "seen the classes left out, which flatters all three scores."
    )


def _comparison_caption(results: Results, table: pd.DataFrame) -> str:
    shown = sum(pair.is_shown for pair in results.pairs)
    return (
        "Pairs of runs on the same test images: difference of the accuracies in points with its "
        "paired 95 % interval, exact McNemar test, p adjusted by Holm. "
        f"Shown at 5 %: {shown} of {len(table)}."
    )


def _fixed(text: str) -> Callable[[Results, pd.DataFrame], str]:
    return lambda results, table: text


TABLES = {
    "class_counts": Table(_class_counts, _class_counts_caption),
    "imbalance": Table(lambda r: class_imbalance(r.dataset.counts()), _imbalance_caption),
    "channels": Table(_channels, _channels_caption, decimals=4),
    "leakage": Table(lambda r: leak_table(r.leaks, r.dataset), _leakage_caption),
    "probe": Table(_probe, _probe_caption),
    "test": Table(lambda r: tables.test_table(r.runs), _test_caption, bold=_best_accuracy),
    "choices": Table(
        lambda r: tables.choices_table(r.runs),
        _fixed(
            "What was tested, and its calibration: expected calibration error in points, as it is "
            "and at the temperature that was fitted on validation."
        ),
    ),
    "comparison": Table(lambda r: comparison_table(r.pairs), _comparison_caption),
    "comparison_matrix": Table(
        lambda r: comparison_matrix(r.pairs),
        _fixed(
            "Difference of test accuracies, row less column, in points, with Holm's p; a star "
            "where it is shown at 5 %."
        ),
    ),
    "without_leaks": Table(_without_leaks, _without_leaks_caption),
    "most_confused": Table(lambda r: most_confused(r.confusion, r.classes), _most_confused_caption),
    "per_class": Table(_per_class, _per_class_caption, decimals=3),
    "retrieval": Table(lambda r: retrieval_tables.retrieval_table(r.runs), _retrieval_caption),
    "retrieval_size": Table(lambda r: retrieval_tables.size_table(r.runs), _size_caption),
    "retrieval_curve": Table(_curve, _curve_caption, decimals=3),
    "retrieval_test_curve": Table(
        lambda r: retrieval_tables.curve_table(r.run, "test"),
        _fixed(
            "The look-up table against its pruning threshold on the test images, shown because it "
            "was asked for; the threshold was not chosen on it."
        ),
        decimals=3,
    ),
    "novelty": Table(lambda r: novelty_table(r.novelty), _novelty_caption),
    "cost": Table(
        lambda r: tables.cost_table(r.runs), _fixed("Elapsed time and peak memory of pretraining.")
    ),
    "published_probe": Table(
        lambda r: published_probe_table(), _fixed("Published validation accuracy (%) / head epoch.")
    ),
    "reproduced": Table(
        lambda r: reproduced_table(r.runs), _fixed("Published and reproduced test metrics (%).")
    ),
}
