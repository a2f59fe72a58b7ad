"""Compute 95 % confidence intervals of accuracy and of macro precision, recall and F1.

The macro metrics give the same weight to a class of 2 test images as to one of 1,000. In small
classes, a confusion that could happen often has not happened, and one mistake halves the recall.
Resampling the test images themselves does not show this, so its intervals are too narrow or off
centre. Here, test sets are drawn from a smoothed confusion matrix, in which every class can be
confused with any other. ``benchmarks/coverage.py`` measures how often the intervals contain the
true value.
"""

import numpy as np
from scipy.stats import binomtest

MACRO = ("precision", "recall", "f1")
DRAWS = 2000  # test sets; the limits vary by 0.05 points with the seed (sizes of the thesis's set)
PSEUDO_IMAGES = 4  # added to each class, as in the "plus four" rule of Agresti and Coull (1998)
PSEUDO_ERRORS = 2  # wrong predictions added to each class, on average
WIDTH = 2.0  # standard deviations on either side; above 1.96, as they are estimated themselves


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Compute Wilson's 95 % confidence interval of correct / n, as fractions."""
    interval = binomtest(int(correct), int(n)).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def class_f1_intervals(counts: np.ndarray) -> np.ndarray:
    """Compute a 95 % confidence interval of the F1 of each class from a confusion matrix.

    F1 = 2 J / (1 + J) grows with J = tp / (tp + fp + fn), the share of correct ones among the
    images that belong to the class or are predicted as it. The limits are those of Wilson's
    interval of J (Lam, Gopal and Qian, Confidence intervals for the F1 score, 2023).

    Args:
        counts: (num_classes, num_classes), one row per true class.

    Returns:
        (num_classes, 2) fractions; NaN for a class that has no image and is never predicted.
    """
    hits = np.diagonal(counts)
    either = counts.sum(0) + counts.sum(1) - hits
    limits = np.full((len(counts), 2), np.nan)
    for index in np.flatnonzero(either):
        share = np.array(wilson_interval(hits[index], either[index]))
        limits[index] = 2 * share / (1 + share)
    return limits


def macro_metrics(
    hits: np.ndarray, true: np.ndarray, predicted: np.ndarray, counted: np.ndarray | None = None
) -> np.ndarray:
    """Compute macro precision, recall and F1.

    Args:
        hits, true, predicted: (..., num_classes) numbers or shares of images of each class that
            are classified correctly, belong to it, and are predicted as it.
        counted: (num_classes,) whether a class counts in the averages; by default all do.

    Returns:
        (..., 3) in the order of MACRO. A class for which a metric is undefined counts as 0.
    """
    parts = ((hits, predicted), (hits, true), (2 * hits, true + predicted))
    chosen = slice(None) if counted is None else counted
    return np.stack([_share(part, whole)[..., chosen].mean(-1) for part, whole in parts], -1)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(whole.shape), where=whole > 0)


def smoothed_rows(counts: np.ndarray) -> np.ndarray:
    """Estimate the probabilities of all predictions for an image of each class.

    The recall of a class of n images is (hits + 4 m) / (n + 4), where m is the mean recall of the
    classes of similar size, as small classes are often harder: each counts with the weight
    exp(-d²/2), where d is the difference of the sizes in octaves, and one more with half its images
    right. Its wrong predictions are distributed as those that were counted. The share of confusions
    that occurred only once estimates how often confusions occur that have not been seen yet (Good
    and Turing); this share, and four pseudo-images, are distributed as the errors of all other
    classes, to which two for each class are added in proportion to the root of its images.

    Args:
        counts: (num_classes, num_classes) confusion matrix, one row per true class.

    Returns:
        (num_classes, num_classes), rows that sum to 1.
    """
    images, hits = counts.sum(1), np.diagonal(counts)
    octaves = np.log2(np.maximum(images, 1))
    near = np.exp(-0.5 * (octaves[:, None] - octaves) ** 2) * (images > 0)
    mean = (near @ _share(hits, images) + 0.5) / (near.sum(1) + 1)  # below 1, even without errors
    recall = (hits + PSEUDO_IMAGES * mean) / (images + PSEUDO_IMAGES)
    errors = counts - np.diag(hits)
    roots = np.sqrt(images)
    elsewhere = errors.sum(0) + PSEUDO_ERRORS * len(counts) * roots / roots.sum() - errors
    np.fill_diagonal(elsewhere, 0)
    elsewhere = _rows(elsewhere)
    wrong = errors.sum(1, keepdims=True)
    unseen = _share((errors == 1).sum(1, keepdims=True), wrong)
    errors = (
        errors * (1 - unseen) + (wrong * unseen + PSEUDO_IMAGES * (1 - mean)[:, None]) * elsewhere
    )
    return _rows(_rows(errors) * (1 - recall)[:, None] + np.diag(recall))  # alone, a class has 1


def _rows(weights: np.ndarray) -> np.ndarray:
    return _share(weights, np.broadcast_to(weights.sum(1, keepdims=True), weights.shape))


def draw_test_sets(
    images: np.ndarray, rows: np.ndarray, draws: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the predictions of test sets that all have the same number of images of each class.

    Args:
        images: (num_classes,) images of each class.
        rows: (num_classes, num_classes) probabilities of the predictions for each true class.
        draws: number of test sets.
        random: the source of random numbers.

    Returns:
        Two arrays (draws, num_classes): correct predictions and all predictions of each class.
    """
    num_classes = len(images)
    hits, predicted = np.zeros((2, draws, num_classes), dtype=np.int64)
    starts, cells = np.arange(draws) * num_classes, [np.zeros(0, dtype=np.int64)]
    for index in np.flatnonzero(images):
        others = rows[index].copy()
        others[index] = 0
        wrong = random.binomial(images[index], 1 - rows[index, index], draws)
        hits[:, index] = images[index] - wrong
        if wrong.mean() > num_classes:
            predicted += random.multinomial(wrong, others / others.sum())
        else:  # drawn one by one, which is faster for few errors among many classes
            ends = others.cumsum()
            drawn = np.searchsorted(ends, random.random(wrong.sum()) * ends[-1], side="right")
            cells.append(np.repeat(starts, wrong) + drawn)
    found = np.bincount(np.concatenate(cells), minlength=predicted.size)
    return hits, hits + predicted + found.reshape(predicted.shape)


def macro_intervals(
    counts: np.ndarray, counted: np.ndarray | None = None, seed: int = 42
) -> dict[str, tuple[float, float]]:
    """Compute 95 % confidence intervals of the macro metrics from a confusion matrix.

    Test sets with the same class sizes are drawn from :func:`smoothed_rows`. How far their metrics
    lie from those of the smoothed matrix gives the bias and the standard deviation of the metrics,
    and the interval is metric - bias ± 2 standard deviations, within [0, 1].

    Args:
        counts: (num_classes, num_classes) confusion matrix, one row per true class.
        counted: (num_classes,) whether a class counts in the averages; by default all do.
        seed: seed of the random numbers.

    Returns:
        Metric name -> (low, high), as fractions, for each of MACRO.
    """
    images = counts.sum(1)
    measured = macro_metrics(np.diagonal(counts), images, counts.sum(0), counted)
    rows, shares = smoothed_rows(counts), images / images.sum()
    truth = macro_metrics(shares * np.diagonal(rows), shares, shares @ rows, counted)
    random = np.random.default_rng(seed)
    hits, predicted = draw_test_sets(images, rows, DRAWS, random)
    drawn = macro_metrics(hits, np.broadcast_to(images, hits.shape), predicted, counted)
    center = measured - (drawn.mean(0) - truth)
    reach = WIDTH * drawn.std(0)
    limits = np.clip([center - reach, center + reach], 0, 1).T.tolist()
    return {name: (low, high) for name, (low, high) in zip(MACRO, limits, strict=True)}
