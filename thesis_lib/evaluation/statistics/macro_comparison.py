"""Compare the macro metrics of two classifiers that were tested on the same images."""

import numpy as np
import pandas as pd

from thesis_lib.evaluation.statistics.intervals import MACRO, macro_intervals, macro_metrics
from thesis_lib.evaluation.statistics.metrics import confusion_counts

RESAMPLES = 500  # enough for a correlation: its standard error is below 0.05


def compare_macro(
    true: pd.Series, predicted_a: pd.Series, predicted_b: pd.Series, classes: list[str]
) -> dict[str, tuple[float, float, float]]:
    """Compute the differences in macro precision, recall and F1, b's minus a's.

    The 95 % interval combines those of both values, taking their correlation into account. For
    accuracies, Newcombe's method 10 does the same. The correlation is that of test sets which are
    resampled within each class.

    Source: Zou, Toward using confidence intervals to compare correlations (Psychological Methods
    12, 2007), which calls it MOVER.

    Args:
        true, predicted_a, predicted_b: (n,) class names of the same images.
        classes: all classes.

    Returns:
        Metric -> difference, low and high (fractions).
    """
    of_both = [confusion_counts(true, guess, classes) for guess in (predicted_a, predicted_b)]
    values = [macro_metrics(np.diagonal(c), c.sum(1), c.sum(0)) for c in of_both]
    limits = [macro_intervals(counts) for counts in of_both]
    correlation = _correlations(true, predicted_a, predicted_b, classes)
    found = {}
    for place, name in enumerate(MACRO):
        a, b = float(values[0][place]), float(values[1][place])
        (low_a, high_a), (low_b, high_b) = limits[0][name], limits[1][name]
        r = correlation[place]
        low = b - a - _reach(b - low_b, high_a - a, r)
        high = b - a + _reach(high_b - b, a - low_a, r)
        found[name] = (b - a, low, high)
    return found


def _reach(one: float, other: float, correlation: float) -> float:
    one, other = max(one, 0), max(other, 0)  # an interval need not contain its value
    return float(np.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0)))


def _correlations(
    true: pd.Series, predicted_a: pd.Series, predicted_b: pd.Series, classes: list[str]
) -> np.ndarray:
    """Return how both classifiers' macro metrics (3,) are correlated over resampled test sets."""
    place = {name: index for index, name in enumerate(classes)}
    labels, *guesses = (series.map(place).to_numpy() for series in (true, predicted_a, predicted_b))
    images = np.bincount(labels, minlength=len(classes))
    order = np.argsort(labels, kind="stable")
    starts = np.repeat(images.cumsum() - images, images)  # of each image's class
    random, found = np.random.default_rng(42), np.empty((RESAMPLES, 2, len(MACRO)))
    for draw in range(RESAMPLES):
        drawn = order[starts + (random.random(len(labels)) * np.repeat(images, images)).astype(int)]
        for which, guess in enumerate(guesses):
            right = labels[drawn][guess[drawn] == labels[drawn]]
            hits = np.bincount(right, minlength=len(classes))
            predicted = np.bincount(guess[drawn], minlength=len(classes))
            found[draw, which] = macro_metrics(hits, images, predicted)
    with np.errstate(invalid="ignore"):  # no spread, no correlation
        pairs = (np.corrcoef(found[:, 0, i], found[:, 1, i])[0, 1] for i in range(len(MACRO)))
        return np.nan_to_num(np.array(list(pairs)))
