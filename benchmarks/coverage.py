"""Measure how often 95 % intervals contain the true value, on test sets like the real ones.

    python -m benchmarks.coverage --draws 1000 --sets 4x15 digits
    python -m benchmarks.coverage --draws 200 --sets dyb

Each draw makes a population of its own: the recall varies between classes and is lower in small
ones, and the confusions go to three other classes ("few") or to all ("many"), mostly to large ones.
A test set is drawn from it, with fixed class sizes ("by class", as `thesis split` makes them) or
without ("at random"). Class sizes: ``dyb`` has those of the test set of the thesis (7,147 images,
87 classes, 20 of them with less than 10 images), ``digits`` those of the demo.

Compared are, for macro precision, recall and F1: resampling of the test images (``images``), within
the true classes (``classes``), the latter reflected at the estimate (``basic``) or corrected for
its bias (``bc``), and test sets from the smoothed confusion matrix (``smoothed``, the workbook's;
``large``: the same over the classes with 10 or more test images). For accuracy: Wilson's interval.

A second table has the other intervals that the workbook prints: the difference of two accuracies on
the same images (Newcombe), the validation accuracy of the best of several checkpoints (Wilson), and
the mean accuracy over seeds and the difference of two such means. Whether an image is easy decides
most of whether each classifier is right; the seed shifts all images of a classifier alike.

Prints Markdown tables: the percentage of intervals that contain the true value, and the mean width
in percentage points. The Monte Carlo error is 0.7 points with 1,000 draws and 2.2 with 100.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from thesis_lib.evaluation.statistics.comparison import paired_interval
from thesis_lib.evaluation.statistics.intervals import (
    MACRO,
    draw_test_sets,
    macro_intervals,
    macro_metrics,
    wilson_interval,
)
from thesis_lib.evaluation.statistics.metrics import LARGE
from thesis_lib.evaluation.statistics.seeds import compare_means, interval_of_mean, shared_margin

RESAMPLES = 1000
DYB = (
    "266 7 66 10 11 23 36 35 76 11 12 274 619 12 23 214 95 71 49 3 38 59 3 11 88 6 4 134 8 "
    "53 17 30 13 27 24 117 12 142 94 4 95 21 115 10 112 15 85 23 12 4 10 2 58 7 108 11 99 "
    "50 3 58 5 6 63 7 8 565 8 58 13 2 2 15 14 12 4 53 14 10 189 26 8 101 460 551 1164 73 21"
)
SIZES = {
    "dyb": tuple(map(int, DYB.split())),
    "4x15": (15,) * 4,
    "digits": (27, 28, 27, 28, 27, 27, 27, 27, 26, 27),
}


def population(
    sizes: np.ndarray, accuracy: float, spread: str, random: np.random.Generator
) -> np.ndarray:
    """Return probabilities of the predictions for each true class, (num_classes, num_classes)."""
    num_classes, shares = len(sizes), sizes / sizes.sum()
    errors = random.beta(2, 1, num_classes) / (1 + np.sqrt(sizes / sizes.mean()))
    for _ in range(100):
        errors = np.minimum(errors * (1 - accuracy) / (shares @ errors), 0.9)
    rows = np.diag(1 - errors)
    for index, error in enumerate(errors):
        others = np.delete(np.arange(num_classes), index)
        if spread == "few":
            weights = sizes[others] / sizes[others].sum()
            others = random.choice(others, min(3, len(others)), replace=False, p=weights)
            weights = np.array([0.6, 0.3, 0.1])[: len(others)]
        else:
            weights = sizes[others] * random.gamma(0.5, size=len(others))
        rows[index, others] = error * weights / weights.sum()
    return rows


def true_metrics(
    sizes: np.ndarray, rows: np.ndarray, counted: np.ndarray | None = None
) -> np.ndarray:
    """Return the metrics of MACRO that an infinitely large test set would have."""
    shares = sizes / sizes.sum()
    return macro_metrics(shares * np.diagonal(rows), shares, shares @ rows, counted)


def resampled(counts: np.ndarray, by_class: bool, random: np.random.Generator) -> np.ndarray:
    """Return the metrics (RESAMPLES, 3) of resampled test images."""
    images = counts.sum(1)
    if by_class:
        rows = counts / np.maximum(images, 1)[:, None]
        hits, predicted = draw_test_sets(images, rows, RESAMPLES, random)
        return macro_metrics(hits, np.broadcast_to(images, hits.shape), predicted)
    cells = random.multinomial(counts.sum(), counts.ravel() / counts.sum(), size=RESAMPLES)
    drawn = cells.reshape(-1, *counts.shape)
    return macro_metrics(np.diagonal(drawn, axis1=1, axis2=2), drawn.sum(2), drawn.sum(1))


def all_intervals(counts: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the limits (2, 3) that each method computes from a confusion matrix."""
    measured = macro_metrics(np.diagonal(counts), counts.sum(1), counts.sum(0))
    levels = np.array([0.025, 0.975])
    found = {"images": np.quantile(resampled(counts, False, random), levels, axis=0)}
    drawn = resampled(counts, True, random)
    found["classes"] = np.quantile(drawn, levels, axis=0)
    found["basic"] = 2 * measured - found["classes"][::-1]
    below = (drawn < measured).mean(0) + 0.5 * (drawn == measured).mean(0)
    shift = 2 * norm.ppf(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    at = norm.cdf(shift + norm.ppf(levels)[:, None])
    found["bc"] = np.array([[np.quantile(drawn[:, i], at[j, i]) for i in range(3)] for j in (0, 1)])
    ours = macro_intervals(counts)
    found["smoothed"] = np.array([ours[name] for name in MACRO]).T
    return found


def draw(sizes: np.ndarray, rows: np.ndarray, sampling: str, random: np.random.Generator):
    """Return the confusion matrix of a test set."""
    if sampling == "at random":
        sizes = random.multinomial(sizes.sum(), sizes / sizes.sum())
    return np.stack([random.multinomial(n, row) for n, row in zip(sizes, rows, strict=True)])


def measure(name: str, accuracy: float, spread: str, sampling: str, draws: int) -> None:
    """Print a row for each method."""
    random, sizes = np.random.default_rng(1), np.array(SIZES[name])
    inside: dict[str, list[np.ndarray]] = {}
    widths: dict[str, list[np.ndarray]] = {}
    for _ in range(draws):
        rows = population(sizes, accuracy, spread, random)
        counts = draw(sizes, rows, sampling, random)
        found = all_intervals(counts, random)
        low, high = wilson_interval(int(counts.trace()), int(counts.sum()))
        truths = {method: true_metrics(sizes, rows) for method in found}
        large = counts.sum(1) >= LARGE
        if sizes.min() < LARGE:
            limits = macro_intervals(counts, large)
            found["large"] = np.array([limits[name] for name in MACRO]).T
            truths["large"] = true_metrics(sizes, rows, large)
        found["Wilson"], truths["Wilson"] = np.array([[low], [high]]), np.array([accuracy])
        for method, (low, high) in found.items():
            inside.setdefault(method, []).append((low <= truths[method]) & (truths[method] <= high))
            widths.setdefault(method, []).append(high - low)
    for method in inside:
        cells = [
            f"{covered:.1f} ({width:.1f})"
            for covered, width in zip(
                100 * np.mean(inside[method], 0), 100 * np.mean(widths[method], 0), strict=True
            )
        ]
        cells = ["", "", "", *cells] if method == "Wilson" else [*cells, ""]
        row = (name, f"{accuracy:.0%}", spread, sampling, method, *cells)
        print("|", " | ".join(row), "|", flush=True)


def correct_images(
    accuracies: np.ndarray,
    images: int,
    draws: int,
    random: np.random.Generator,
    seed_sd: float = 0.0,
) -> np.ndarray:
    """Return (draws, images, classifiers): whether classifiers of given accuracies are correct.

    Classifier c is correct on an image if easiness of the image + noise of the classifier, two
    normal variables of variance 0.8 and 0.2, is below the quantile of its accuracy. A seed of
    standard deviation ``seed_sd`` is added to all images of a classifier.
    """
    easy = random.normal(scale=np.sqrt(0.8), size=(draws, images, 1))
    noise = random.normal(scale=np.sqrt(0.2), size=(draws, images, len(accuracies)))
    seeds = random.normal(scale=seed_sd, size=(draws, 1, len(accuracies)))
    return easy + noise + seeds < norm.ppf(accuracies) * np.sqrt(1 + seed_sd**2)


def measure_others(draws: int) -> None:
    """Print the coverage of Newcombe's interval, and of Wilson's after a choice."""
    print("\n| interval | images | true accuracies | contains the truth (mean width) |")
    print("|---|---|---|---|")
    random = np.random.default_rng(1)
    for images in (60, 274, 7147):
        for pair in ((0.9, 0.9), (0.9, 0.93), (0.97, 0.98)):
            right = correct_images(np.array(pair), images, draws, random)
            both = right.all(2).sum(1)
            only_a, only_b = (right.sum(1) - both[:, None]).T
            counts = zip(both, only_a, only_b, images - both - only_a - only_b, strict=True)
            limits = np.array([paired_interval(*map(int, four)) for four in counts])
            _print_other("difference of two (Newcombe)", images, pair, limits, pair[1] - pair[0])
        for accuracies in ((0.95,) * 7, tuple(np.linspace(0.93, 0.96, 7).round(3))):
            totals = correct_images(np.array(accuracies), images, draws, random).sum(1)
            limits = np.array([wilson_interval(total, images) for total in totals.max(1)])
            truth = np.array(accuracies)[totals.argmax(1)]
            _print_other("best of seven (Wilson)", images, accuracies, limits, truth)


def measure_seeds(draws: int) -> None:
    """Print the coverage of the intervals over seeds and test images."""
    print(
        "\n| interval | images | seeds | SD over seeds (points) | contains the truth (mean width) |"
    )
    print("|---|---|---|---|---|")
    random = np.random.default_rng(1)
    for images in (60, 274, 2000):
        for seeds in (2, 3, 6, 10):
            for seed_sd in (0.0, 0.05, 0.2):
                means, pairs = [], []
                for _ in range(draws):
                    both = correct_images(np.full(2 * seeds, 0.9), images, 1, random, seed_sd)[0]
                    one, other = both[:, :seeds], both[:, seeds:]
                    bounds = [wilson_interval(int(n), images) for n in one.sum(0)]
                    means.append(
                        interval_of_mean(one.mean(0), np.array(bounds), shared_margin(one))
                    )
                    pair = compare_means("a", "b", one, other)
                    pairs.append((pair.low, pair.high))
                points = f"{100 * norm.pdf(norm.ppf(0.9)) * seed_sd:.1f}"
                for words, limits, truth in (("mean", means, 0.9), ("difference", pairs, 0.0)):
                    low, high = np.array(limits).T
                    inside, width = (low <= truth) & (truth <= high), 100 * (high - low).mean()
                    print(f"| {words} | {images:,} | {seeds} | {points} | "
                          f"{100 * inside.mean():.1f} ({width:.1f}) |", flush=True)  # fmt: skip


def _print_other(
    words: str, images: int, accuracies: Sequence[float], limits: np.ndarray, truth: np.ndarray
) -> None:
    low, high = limits.T
    covered, width = 100 * ((low <= truth) & (truth <= high)).mean(), 100 * (high - low).mean()
    listed = ", ".join(f"{a:.1%}" for a in dict.fromkeys(accuracies))
    print(f"| {words} | {images:,} | {listed} | {covered:.1f} ({width:.1f}) |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage")
    parser.add_argument("--sets", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--accuracies", nargs="+", type=float, default=[0.85, 0.9, 0.95, 0.98])
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    names = ("test set", "accuracy", "confusions", "drawn", "interval", *MACRO, "accuracy")
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
    for name in options.sets:
        for accuracy in options.accuracies:
            for spread in ("few", "many"):
                for sampling in ("by class", "at random"):
                    measure(name, accuracy, spread, sampling, options.draws)
    measure_others(options.draws)
    measure_seeds(options.draws)


if __name__ == "__main__":
    main()
