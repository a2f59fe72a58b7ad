"""Measure how often the 95 % intervals of means and differences contain the true value.

    python -m benchmarks.coverage_of_means --draws 300

What :mod:`benchmarks.coverage` measures for a single run, this measures for the intervals that the
workbook prints over several runs: the mean macro F1 over seeds, the difference in macro F1 of two
classifiers on the same images, and the mean accuracy over splits of the same images; also for the
F1 of single classes.

For seeds and differences, images, confusions and class sizes are those of
:mod:`benchmarks.coverage`; how difficult an image is decides most of what each classifier answers,
and a seed makes all images of a classifier easier or more difficult. For splits, each draw is a
data set of 3 normally distributed classes, and each split trains a linear discriminant analysis on
80 % of it. The truth is the mean accuracy over all data sets and splits.

Prints Markdown tables: the percentage of intervals that contain the true value, and the mean width
in percentage points. The Monte Carlo error is 1.3 points with 300 draws.
"""

import argparse
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

from benchmarks.coverage import SIZES, population, true_metrics
from thesis_lib.evaluation.statistics.intervals import (
    MACRO,
    class_f1_intervals,
    macro_intervals,
    macro_metrics,
    wilson_interval,
)
from thesis_lib.evaluation.statistics.macro_comparison import compare_macro
from thesis_lib.evaluation.statistics.seeds import interval_of_mean, shared_margin
from thesis_lib.evaluation.statistics.splits import resampled_interval

F1, ACCURACIES = MACRO.index("f1"), (0.85, 0.9, 0.95, 0.98)
SHARED = 0.8  # of the variance of an answer, the part that is the same for all classifiers


def answers(
    labels: np.ndarray, rows: list[np.ndarray], seed_sd: float, random: np.random.Generator
) -> np.ndarray:
    """Return the predicted classes (n, S) of S classifiers with given confusions.

    Args:
        labels: (n,) true class of each image.
        rows: for each classifier, the probabilities of its answers for each true class.
        seed_sd: standard deviation of the difference between seeds, on the probit scale.
        random: random number generator.
    """
    shape = (len(labels), len(rows))
    easy = random.normal(scale=np.sqrt(SHARED), size=(len(labels), 1))
    noise = random.normal(scale=np.sqrt(1 - SHARED), size=shape)
    seeds = random.normal(scale=seed_sd, size=(1, len(rows)))
    difficulty = norm.cdf((easy + noise + seeds) / np.sqrt(1 + seed_sd**2))
    found = np.empty(shape, np.int64)
    for column, probabilities in enumerate(rows):
        for label in np.unique(labels):
            # The right answer is that to the easiest images, then the most frequent wrong one.
            order = np.argsort(-probabilities[label], kind="stable")
            order = np.r_[label, order[order != label]]
            limits = probabilities[label, order].cumsum()
            of_it = labels == label
            place = np.searchsorted(limits, difficulty[of_it, column]).clip(max=len(limits) - 1)
            found[of_it, column] = order[place]
    return found


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the confusion matrix."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def mean_over_seeds(
    name: str, num_seeds: int, seed_sd: float, random: np.random.Generator
) -> tuple[tuple[float, float], float]:
    """Return the interval of the mean macro F1 over seeds, and the true value."""
    sizes = np.array(SIZES[name])
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows = population(sizes, 0.9, "few", random)
    predicted = answers(labels, [rows] * num_seeds, seed_sd, random)
    values, bounds = [], []
    for column in predicted.T:
        counts = confusion(labels, column, len(sizes))
        values.append(macro_metrics(np.diagonal(counts), counts.sum(1), counts.sum(0))[F1])
        bounds.append(macro_intervals(counts)["f1"])
    shared = shared_margin(predicted == labels[:, None])
    return interval_of_mean(np.array(values), np.array(bounds), shared), true_metrics(sizes, rows)[
        F1
    ]


def difference(
    name: str, accuracies: tuple[float, float], random: np.random.Generator
) -> tuple[tuple[float, float], float]:
    """Return the interval of the difference in macro F1 of two classifiers, and the true value."""
    sizes = np.array(SIZES[name])
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows = [population(sizes, accuracy, "few", random) for accuracy in accuracies]
    predicted = answers(labels, rows, 0, random)
    classes = [f"{label:02d}" for label in range(len(sizes))]
    named = [pd.Series(labels), *(pd.Series(column) for column in predicted.T)]
    true, a, b = (series.map("{:02d}".format) for series in named)
    _, low, high = compare_macro(true, a, b, classes)["f1"]
    return (low, high), true_metrics(sizes, rows[1])[F1] - true_metrics(sizes, rows[0])[F1]


def over_splits(
    num_images: int, num_splits: int, in_folds: bool, random: np.random.Generator
) -> np.ndarray:
    """Return the accuracies (J,) on splits of one data set."""
    labels = np.repeat(np.arange(3), num_images // 3)
    images = random.normal(size=(len(labels), 5)) + 1.2 * np.eye(3, 5)[labels]
    seed = int(random.integers(2**31))
    shuffled = StratifiedShuffleSplit(num_splits, test_size=0.2, random_state=seed)
    folds = StratifiedKFold(num_splits, shuffle=True, random_state=seed)
    found = []
    for train, test in (folds if in_folds else shuffled).split(images, labels):
        model = LinearDiscriminantAnalysis().fit(images[train], labels[train])
        found.append(model.score(images[test], labels[test]))
    return np.array(found)


def class_f1(
    name: str, accuracy: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return whether the F1 intervals of single classes contain the truth, and the class sizes."""
    sizes = np.array(SIZES[name])
    rows, shares = population(sizes, accuracy, "few", random), sizes / sizes.sum()
    counts = np.stack([random.multinomial(n, row) for n, row in zip(sizes, rows, strict=True)])
    low, high = class_f1_intervals(counts).T
    truth = 2 * shares * np.diagonal(rows) / (shares + shares @ rows)
    return (low <= truth) & (truth <= high), sizes


def line(words: tuple[object, ...], limits: np.ndarray, truth: np.ndarray) -> str:
    """Return a row of a table: how many intervals (n, 2) contain the truth, and their width."""
    low, high = limits.T
    covered, width = 100 * ((low <= truth) & (truth <= high)).mean(), 100 * (high - low).mean()
    return f"| {' | '.join(map(str, words))} | {covered:.1f} ({width:.1f}) |"


def repeated(
    draw: Callable[[], tuple[tuple[float, float], float]], draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return intervals (draws, 2) and true values (draws,)."""
    found = [draw() for _ in range(draws)]
    return np.array([limits for limits, _ in found]), np.array([truth for _, truth in found])


def measure_classes(draws: int, random: np.random.Generator) -> None:
    """Print the coverage of the F1 intervals of single classes, by the size of the class."""
    print("\n| F1 of single classes of | images of the class | contains the truth |\n|---|---|---|")
    for name in SIZES:
        found = [class_f1(name, accuracy, random) for accuracy in ACCURACIES for _ in range(draws)]
        inside, sizes = (np.concatenate(part) for part in zip(*found, strict=True))
        for least, most in ((1, 9), (10, 29), (30, 99), (100, 1999)):
            of_it = inside[(least <= sizes) & (sizes <= most)]
            if len(of_it):
                print(f"| {name} | {least} to {most} | {100 * of_it.mean():.1f} |", flush=True)


def measure_splits(draws: int, random: np.random.Generator) -> None:
    """Print the coverage of the intervals over splits, with and without the correction."""
    print("\n| images | splits | corrected: contains the truth (mean width) | uncorrected |")
    print("|---|---|---|---|")
    for num_images in (90, 300, 1500):
        for num_splits, in_folds in ((2, False), (3, False), (6, False), (10, False), (5, True)):
            values = [over_splits(num_images, num_splits, in_folds, random) for _ in range(draws)]
            words = (num_images, f"{num_splits} {'folds' if in_folds else 'random'}")
            num_test = num_images // 5
            bounds = np.array(
                [[wilson_interval(round(v * num_test), num_test) for v in of] for of in values]
            )
            corrected = np.array(
                [resampled_interval(*of, 20 / 80) for of in zip(values, bounds, strict=True)]
            )
            no_margin = np.repeat(np.array(values)[..., None], 2, axis=2)
            plain = np.array(
                [resampled_interval(*of, 0) for of in zip(values, no_margin, strict=True)]
            )
            truth = np.mean(values)
            other = line((), plain, truth).split("|")[-2]
            print(line(words, corrected, truth)[:-1] + f"|{other}|", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage_of_means")
    parser.add_argument("--draws", type=int, default=300)
    draws = parser.parse_args().draws
    random = np.random.default_rng(1)
    print("| mean macro F1 of | seeds | SD over seeds (probit) | contains the truth (mean width) |")
    print("|---|---|---|---|")
    for name in SIZES:
        for num_seeds in (2, 3, 6):
            for seed_sd in (0.0, 0.05, 0.2):
                of_it = (name, num_seeds, seed_sd)
                print(line(of_it, *repeated(lambda of=of_it: mean_over_seeds(*of, random), draws)))
    print("\n| difference in macro F1 of | accuracies | contains the truth (mean width) |")
    print("|---|---|---|")
    for name in SIZES:
        for pair in ((0.85, 0.85), (0.9, 0.9), (0.9, 0.93), (0.97, 0.98)):
            found = repeated(lambda of=(name, pair): difference(*of, random), draws)
            print(line((name, f"{pair[0]:.0%}, {pair[1]:.0%}"), *found), flush=True)
    measure_classes(draws, random)
    measure_splits(draws, random)


if __name__ == "__main__":
    main()
