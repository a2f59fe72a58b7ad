"""The captions of the chapter's tables, drafted from the results that they show."""

from collections.abc import Callable

import pandas as pd

from thesis_lib.evaluation.ood import FOLDS
from thesis_lib.evaluation.pruning import MARGIN
from thesis_lib.evaluation.retrieval import CHOSEN_ON
from thesis_lib.reporting import tables
from thesis_lib.reporting.results import Results
from thesis_lib.system.files import read_json


def class_counts(results: Results, table: pd.DataFrame) -> str:
    parts = [f"{table[split].sum():,} in {split}" for split in results.dataset.splits]
    return (
        f"Images of {results.config.data_name} per class and part: {', '.join(parts)}, "
        f"{len(table)} classes."
    )


def imbalance(results: Results, table: pd.DataFrame) -> str:
    ratio = table.set_index("split").loc["train", "imbalance_ratio"]
    return (
        "Imbalance of the classes in each part: Gini coefficient, ratio of the largest to the "
        f"smallest class (in train {ratio:,.1f}), evenness of the entropy."
    )


def channels(results: Results, table: pd.DataFrame) -> str:
    return (
        "Mean and standard deviation of the channels, on a scale of 0 to 1, over the "
        f"{results.statistics.pixels:,} pixels of the training images."
    )


def leakage(results: Results, table: pd.DataFrame) -> str:
    group = results.config.group_by
    groups = f"; groups by the pattern {group}" if group else ""
    return (
        "Images of val and test with a counterpart in an earlier part. Near-duplicates differ in "
        f"up to {results.config.duplicate_distance} of the 64 bits of their perceptual hashes"
        f"{groups}; other label: the counterpart has another class."
    )


def probe(results: Results, table: pd.DataFrame) -> str:
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


def test(results: Results, table: pd.DataFrame) -> str:
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


def without_leaks(results: Results, table: pd.DataFrame) -> str:
    if len(table) == 1:
        return "Test metrics (%) with 95 % intervals: no test image leaks."
    return (
        "Test metrics (%) with 95 % intervals, over all test images and without those that have "
        "a counterpart in train or val. A class with no image left counts as 0."
    )


def most_confused(results: Results, table: pd.DataFrame) -> str:
    worst = table.iloc[0]
    return (
        f"Most confused pairs of classes: {worst['images']} images of {worst['class_a']} and "
        f"{worst['class_b']} were taken for the other."
    )


def per_class(results: Results, table: pd.DataFrame) -> str:
    tested = table[table["images"] > 0].sort_values("f1")
    weakest = ", ".join(f"{row['class']} ({row['f1']:.2f})" for _, row in tested[:3].iterrows())
    return f"Precision, recall and F1 of each class. The lowest F1: {weakest}."


def retrieval(results: Results, table: pd.DataFrame) -> str:
    caption = (
        "The cosine look-up table, at the threshold that was chosen for it, on the test images: "
        "metrics (%) with 95 % intervals."
    )
    seen = table.loc[table["choices tested"] > 1, "run"].tolist()
    if seen:
        caption += f" Another table had been tested before of {', '.join(seen)}."
    return caption


def size(results: Results, table: pd.DataFrame) -> str:
    # All runs are on one data set, which has a val/ or has none.
    choice = read_json(results.runs_with_lookup_table[0].table_choice_file)
    return (
        "Size and speed of the cosine look-up table at the chosen pruning threshold. Chosen on "
        f"{CHOSEN_ON[choice['chosen_on']]}: the smallest table that is neither shown to be worse "
        f"than the unpruned one nor measures worse by more than {100 * MARGIN:g} points. Less "
        "head: accuracy less the linear head's on the same test images, in points, with its "
        "paired interval and the exact McNemar test's p."
    )


def curve(results: Results, table: pd.DataFrame) -> str:
    choice = read_json(results.run.table_choice_file)
    return (
        f"The look-up table against its pruning threshold, on {CHOSEN_ON[choice['chosen_on']]}: "
        "size of the vectors, time of the search, metrics in % with 95 % intervals, accuracy less "
        "the full table's in points, and the imbalance of its classes. Chosen is "
        f"{choice['threshold']:.2f}."
    )


def ood(results: Results, table: pd.DataFrame) -> str:
    return (
        f"How well images of classes left out of table and head are told from the others, in %: "
        f"mean, and lowest to highest, of up to {FOLDS} parts of the classes. The backbone has "
        "seen the classes left out, which flatters all three scores."
    )


def comparison(results: Results, table: pd.DataFrame) -> str:
    shown = sum(pair.is_shown for pair in results.pairs)
    return (
        "Pairs of runs on the same test images: difference of the accuracies in points with its "
        "paired 95 % interval, exact McNemar test, p adjusted by Holm. "
        f"Shown at 5 %: {shown} of {len(table)}."
    )


def fixed(text: str) -> Callable[[Results, pd.DataFrame], str]:
    return lambda results, table: text
