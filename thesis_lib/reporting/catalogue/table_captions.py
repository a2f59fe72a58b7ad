"""Write the captions of the chapter's tables from the results that they show.

Most functions are named after the table whose caption they write.
"""

from collections.abc import Callable

import pandas as pd

from thesis_lib.evaluation.ood import FOLDS
from thesis_lib.evaluation.pruning import MARGIN
from thesis_lib.evaluation.statistics import (
    ENOUGH,
    FEWEST,
    FEWEST_IMAGES,
    metrics_by_group,
    spread_of_groups,
)
from thesis_lib.reporting.results import Results
from thesis_lib.reporting.tables import runs as tables
from thesis_lib.reporting.tables.rejection import SHOWN_BY_CLASS
from thesis_lib.reporting.tables.retrieval import CHOSEN_ON
from thesis_lib.reporting.tables.taxa import distance_sentence
from thesis_lib.system.files import read_json


def class_counts(results: Results, table: pd.DataFrame) -> str:
    splits = [f"{table[split].sum():,} in {split}" for split in results.dataset.splits]
    return (
        f"Images of {results.config.data_name} per class and split: {', '.join(splits)}, in "
        f"{len(table)} classes."
    )


def imbalance(results: Results, table: pd.DataFrame) -> str:
    ratio = table.set_index("split").loc["train", "imbalance_ratio"]
    return (
        "Class imbalance in each split: Gini coefficient, imbalance ratio (largest to smallest "
        f"class, {ratio:,.1f} in train) and evenness (entropy relative to equal class sizes)."
    )


def channels(results: Results, table: pd.DataFrame) -> str:
    return (
        "Mean and standard deviation of each colour channel, on a scale of 0 to 1, over all "
        f"{results.statistics.pixels:,} pixels of the training images."
    )


def leakage(results: Results, table: pd.DataFrame) -> str:
    group = results.config.group_by
    groups = f" Groups are formed by the pattern {group}." if group else ""
    return (
        "Images of val and test that have a counterpart in an earlier split. The perceptual hashes "
        f"of near-duplicates differ in at most {results.config.duplicate_distance} of 64 bits."
        f"{groups} Other label: test images whose counterpart has another class."
    )


def by_size(results: Results, table: pd.DataFrame) -> str:
    missing = len(results.predictions) - int(table["images"].sum())
    left = f" {missing:,} test images have no known size." if missing else ""
    return (
        "Test accuracy (%) with its 95 % interval, and macro precision, recall and F1 (%) over the "
        "classes that occur, by the size of the organism; the upper limit of each size class is "
        f"twice its lower limit.{left}"
    )


def probe(results: Results, table: pd.DataFrame) -> str:
    caption = (
        "Validation accuracy (%) / head epoch at which it was reached (of a random forest: its "
        "number of trees), for every probed checkpoint. A star marks the selected checkpoint."
    )
    if results.part == "probe":
        against = read_json(results.run.selection_file)["against_last"]
        caption += f" {against[0].upper()}{against[1:]}."
        if "nearest neighbour" in table:
            caption += (
                " Nearest neighbour: accuracy (%) of classification by the training image with "
                "the highest cosine similarity."
            )
    return caption


def test(results: Results, table: pd.DataFrame) -> str:
    images = " or ".join(f"{n:,}" for n in sorted(set(table["n"])))
    caption = (
        f"Metrics (%) on {images} test images with 95 % intervals: Wilson intervals for accuracy; "
        "for the macro means over all classes, bias-corrected intervals from test sets drawn from "
        "the smoothed confusion matrix, with the same number of images of each class."
    )
    if results.part == "test":
        for words, names in results.counted_as_zero.items():
            if names:
                caption += f" Classes {words} count as 0: {', '.join(names)}."
    seen = table.loc[table["choices tested"] > 1, "run"].tolist()
    if seen:
        caption += (
            " The test set had already been evaluated before the last choice was made for "
            f"{', '.join(seen)}."
        )
    if len(table) > 1:
        best = tables.shown_best(results.pairs)
        caption += (
            f" Bold: {best} is significantly more accurate than every other run."
            if best
            else " No run is significantly more accurate than every other run."
        )
    return caption


def without_leaks(results: Results, table: pd.DataFrame) -> str:
    if len(table) == 1:
        return "Test metrics (%) with 95 % intervals. No test image leaks."
    return (
        "Test metrics (%) with 95 % intervals, on all test images and without the images that "
        "have a counterpart in train or val. A class without a remaining image counts as 0."
    )


def most_confused(results: Results, table: pd.DataFrame) -> str:
    worst = table.iloc[0]
    return (
        f"Most confused pairs of classes. {worst['images']} images of {worst['class_a']} or "
        f"{worst['class_b']} were classified as the other class."
    )


def per_class(results: Results, table: pd.DataFrame) -> str:
    tested = table[table["images"] > 0].sort_values("f1")
    weakest = ", ".join(f"{row['class']} ({row['f1']:.2f})" for _, row in tested[:3].iterrows())
    return f"Precision, recall and F1 of each class. Lowest F1: {weakest}."


def retrieval(results: Results, table: pd.DataFrame) -> str:
    caption = (
        "Metrics (%) of the cosine look-up table on the test images with 95 % intervals, at the "
        "selected pruning threshold."
    )
    seen = table.loc[table["choices tested"] > 1, "run"].tolist()
    if seen:
        caption += f" Another table had already been tested for {', '.join(seen)}."
    return caption


def size(results: Results, table: pd.DataFrame) -> str:
    # The same for all runs: it depends only on whether the data set has a val/ folder.
    choice = read_json(results.runs_with_lookup_table[0].table_choice_file)
    return (
        "Size and speed of the cosine look-up table at the selected pruning threshold. On "
        f"{CHOSEN_ON[choice['chosen_on']]}, it is the smallest table that is not significantly "
        "less accurate than the unpruned table and whose accuracy is at most "
        f"{100 * MARGIN:g} percentage points lower. Minus head: accuracy minus that of the "
        "head on the same test images, in percentage points, with the paired 95 % interval and "
        "the p value of the exact McNemar test."
    )


def curve(results: Results, table: pd.DataFrame) -> str:
    choice = read_json(results.run.table_choice_file)
    return (
        "The look-up table at each pruning threshold, evaluated on "
        f"{CHOSEN_ON[choice['chosen_on']]}: size of the feature vectors, search time, metrics (%) "
        "with 95 % intervals, accuracy minus that of the full table in percentage points, and "
        f"class imbalance. The selected threshold is {choice['threshold']:.2f}."
    )


def published_lookup(results: Results, table: pd.DataFrame) -> str:
    choice = read_json(results.run.table_choice_file)
    return (
        "The published look-up table of ResNet50 features and that of this run, at each pruning "
        "threshold: metrics (%) and size of the feature vectors. The published values were "
        "measured on the test images, on which their authors also selected the threshold; those "
        f"of this run on {CHOSEN_ON[choice['chosen_on']]}."
    )


def ood(results: Results, table: pd.DataFrame) -> str:
    return (
        "Out-of-distribution (OOD) detection of classes that were left out of the look-up table "
        f"and a linear head, in %: mean (minimum to maximum) over up to {FOLDS} groups of "
        "classes. The backbone was trained on these classes too, so all three scores are "
        "optimistic."
    )


def comparison(results: Results, table: pd.DataFrame) -> str:
    shown = sum(pair.is_shown for pair in results.pairs)
    return (
        "Pairwise comparison of runs on the same test images: difference in accuracy in "
        "percentage points with its paired 95 % interval, and the p value of the exact McNemar "
        f"test, unadjusted and Holm-adjusted. Significant at the 5 % level: {shown} of "
        f"{len(table)}."
    )


def rejection(results: Results, table: pd.DataFrame) -> str:
    return (
        "Rejection of test images with low confidence: share of images that are kept, their "
        "precision (the share classified correctly) with its 95 % interval, and macro recall (%), "
        "where a rejected image counts as not found; recall lost in percentage points. The "
        "thresholds reach the wanted precision on the validation images, with one threshold for "
        f"all images, or one for each class to which {FEWEST} or more of them are assigned. Where "
        "no threshold reaches the precision, all images are rejected."
    )


def rejection_by_class(results: Results, table: pd.DataFrame) -> str:
    return (
        "Rejection by class, for a precision of "
        f"{100 * SHOWN_BY_CLASS:.0f} % on the validation images: share (%) of the test images "
        "assigned to the class that are kept, and precision and recall (%) before and after. "
        f"Classes to which fewer than {FEWEST} validation images are assigned have the threshold "
        "for all images."
    )


def by_group(results: Results, table: pd.DataFrame) -> str:
    found = metrics_by_group(results.predictions, results.dataset.groups)
    number, spread, chance = spread_of_groups(found)
    words = ""
    if len(found) > len(table):
        words = f" These are the {len(table)} largest of {len(found):,} groups."
    if number > 1:
        words += (
            f" Between the {number:,} groups of {FEWEST_IMAGES} or more images, the accuracy has a "
            f"standard deviation of {100 * spread:.1f} percentage points, where chance alone would "
            f"give {100 * chance:.1f}."
        )
    return (
        "Test accuracy (%) with its 95 % interval, and macro precision, recall and F1 (%) over the "
        f"classes that occur, by group of images.{words}"
    )


def taxa(results: Results, table: pd.DataFrame) -> str:
    taxonomy = results.dataset.taxonomy
    lacking = sum(len(lineage) == 1 for lineage in taxonomy.lineages.values()) if taxonomy else 0
    left = f" {lacking} classes are without a higher taxon." if lacking else ""
    steps = distance_sentence(results.predictions, taxonomy) if taxonomy else ""
    return (
        "Test metrics (%) with the classes merged into taxa, from the highest level of the "
        f"taxonomy down, with 95 % intervals.{left} {steps}"
    )


def seeds(results: Results, table: pd.DataFrame) -> str:
    caption = (
        "Accuracy and macro F1 (%) on the test images, averaged over runs that differ only in "
        "their seed: mean ± standard deviation over the seeds, and the 95 % interval of the mean "
        "over seeds and test images."
    )
    if (table["seeds"] == 1).any():
        caption += " With a single seed, the interval is that over test images alone."
    return caption


def seed_pairs(results: Results, table: pd.DataFrame) -> str:
    return (
        "Pairwise comparison of configurations, with their seeds as replicates: difference in mean "
        "accuracy in percentage points with its 95 % interval over seeds and test images, and the "
        "Holm-adjusted p value of Welch's t test with the variance over test images added. "
        f"With fewer than {ENOUGH} seeds, a configuration is not tested: look at the interval."
    )


def splits(results: Results, table: pd.DataFrame) -> str:
    caption = (
        "Accuracy and macro F1 (%) on the test images of several splits of the same images: mean ± "
        "standard deviation over the splits, and the 95 % interval of the mean, whose variance is "
        "corrected for the training images that the splits share (Nadeau and Bengio 2003). "
        f"{results.over_splits.sentence}"
    )
    if (table["splits"] == 1).any():
        caption += " For a single split, the interval is that over its seeds and test images."
    return caption


def split_pairs(results: Results, table: pd.DataFrame) -> str:
    return (
        "Pairwise comparison of configurations on the same splits: mean difference in accuracy in "
        "percentage points with its 95 % interval, and the Holm-adjusted p value of the corrected "
        f"resampled t test (Nadeau and Bengio 2003). With fewer than {ENOUGH} splits, a pair is "
        "not tested: look at the interval."
    )


SPLIT_LOSS = (
    "How much lower the metrics are on splits that keep the images of a group, such as a sample, "
    "together: loss in percentage points with its 95 % interval. A random split overestimates the "
    "accuracy on new samples by so much."
)


def fixed(text: str) -> Callable[[Results, pd.DataFrame], str]:
    """Return a caption that is the same for all results."""
    return lambda results, table: text
