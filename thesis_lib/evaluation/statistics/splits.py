"""Summarise and compare configurations over several splits of the same images.

The accuracy also depends on which images are in train and which in test. Splits of the same images
share most of their training images, so their results are correlated, and a plain t interval over
them is too narrow. Nadeau and Bengio (Inference for the generalization error, Machine Learning 52,
2003) therefore replace the variance s^2 / J of the mean over J splits by
s^2 (1 / J + n_test / n_train). ``benchmarks/coverage.py`` measures how often the intervals contain
the true value.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

from thesis_lib.evaluation.statistics.seeds import Summary


def summarize_splits(values: Sequence[float], bounds: np.ndarray, ratio: float) -> Summary:
    """Summarise a metric over splits: the mean with its 95 % interval, and the SD over splits.

    Args:
        values: the metric of each of at least two splits, as fractions.
        bounds: (J, 2) its interval over the test images of each split.
        ratio: number of test images divided by that of training images.
    """
    low, high = resampled_interval(np.asarray(values), bounds, ratio)
    sd = float(np.std(values, ddof=1))
    return Summary(tuple(values), sd, max(low, 0.0), min(high, 1.0))


def resampled_interval(values: np.ndarray, bounds: np.ndarray, ratio: float) -> tuple[float, float]:
    """Compute the 95 % interval of a mean over splits: mean +- t s sqrt(1 / J + ratio).

    Splits can agree by chance, above all two of them. The margin is therefore not smaller than the
    one that J independent test sets would have.

    Args:
        values: (J,) a metric, or the difference of two on the same splits.
        bounds: (J, 2) its interval over the test images of each split.
        ratio: number of test images divided by that of training images.
    """
    margin = student.ppf(0.975, len(values) - 1) * resampled_error(values, ratio)
    below, above = np.abs(bounds - values[:, None]).mean(0) / np.sqrt(len(values))
    mean = values.mean()
    return float(mean - max(margin, below)), float(mean + max(margin, above))


def resampled_error(values: np.ndarray, ratio: float) -> float:
    """Return the corrected standard error of a mean over J splits, s sqrt(1 / J + ratio)."""
    return float(values.std(ddof=1) * np.sqrt(1 / len(values) + ratio))


def resampled_p(differences: np.ndarray, ratio: float) -> float:
    """Compute the two-sided p value of the corrected resampled t test.

    Args:
        differences: (J,) a metric of one configuration minus that of another on the same splits.
        ratio: number of test images divided by that of training images.
    """
    error = resampled_error(differences, ratio)
    if not error:
        return float(not differences.any())
    return float(2 * student.sf(abs(differences.mean()) / error, len(differences) - 1))


def loss_between(before: Summary, after: Summary) -> tuple[float, float, float]:
    """Compute how much lower a metric is in the second of two independent summaries.

    The 95 % interval combines those of both (MOVER; Zou and Donner, Statistics in Medicine 27,
    2008), as Newcombe's method 10 does for two proportions.

    Returns:
        ``before - after``, and the bounds of its interval (fractions).
    """
    loss = before.mean - after.mean
    low = loss - np.hypot(before.mean - before.low, after.high - after.mean)
    high = loss + np.hypot(before.high - before.mean, after.mean - after.low)
    return loss, float(low), float(high)
