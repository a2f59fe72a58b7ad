"""Compute classification metrics and confidence intervals from true and predicted classes.

Accuracy and macro-averaged precision, recall and F1 are defined as in scikit-learn. The macro
averages are taken over all classes of the data set, with 0 for classes where a metric is
undefined because they have no test image or no prediction.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

METRICS = ("accuracy", "precision", "recall", "f1")
RESAMPLES = 10_000
Labels: TypeAlias = Sequence[Any] | np.ndarray | pd.Series  # class names or integers


def confusion_counts(true: Labels, predicted: Labels, classes: Labels | None = None) -> np.ndarray:
    """Compute the confusion matrix: counts of images by true (rows) and predicted (columns) class.

    Args:
        true, predicted: (n,) classes, as names or integers.
        classes: all classes of the data set; by default those that occur, sorted.

    Returns:
        (num_classes, num_classes) counts.

    Raises:
        ValueError: if the arrays are empty or differ in length, or if ``classes`` lacks one of
            their classes.
    """
    rows: np.ndarray = np.asarray(true)
    columns: np.ndarray = np.asarray(predicted)
    if rows.shape != columns.shape or rows.ndim != 1 or not len(rows):
        raise ValueError(
            f"true and predicted must have the same length, not {rows.shape} and {columns.shape}"
        )
    occurring = np.unique(np.concatenate((rows, columns)))
    labels = occurring if classes is None else np.asarray(classes)
    unknown = set(occurring.tolist()) - set(labels.tolist())
    if unknown:
        raise ValueError(f"classes lacks {', '.join(map(repr, sorted(unknown)))}")
    return confusion_matrix(rows, columns, labels=labels)


def metrics_of_counts(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Compute accuracy and macro precision, recall and F1 from confusion matrices.

    Args:
        counts: (..., num_classes, num_classes), with one row per true class.

    Returns:
        Metric name -> values (...), for each of METRICS.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return _metrics(hits, counts.sum(-1), counts.sum(-2))


def _metrics(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Compute METRICS from counts of hits, true and predicted images, (..., num_classes) each."""
    return {
        "accuracy": hits.sum(-1) / true.sum(-1),
        "precision": _share(hits, predicted).mean(-1),
        "recall": _share(hits, true).mean(-1),
        "f1": _share(2 * hits, true + predicted).mean(-1),
    }


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(whole.shape), where=whole > 0)


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Compute Wilson's 95 % confidence interval of correct / n, as fractions."""
    interval = binomtest(int(correct), int(n)).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_intervals(
    counts: np.ndarray, resamples: int = RESAMPLES, seed: int = 42
) -> dict[str, tuple[float, float]]:
    """Compute percentile bootstrap 95 % confidence intervals of the macro metrics.

    The bootstrap resamples test images. Instead of drawing n images with replacement, the counts
    of the nonzero cells of the confusion matrix are drawn from a multinomial distribution, which
    is equivalent.

    Args:
        counts: (num_classes, num_classes) confusion matrix.
        resamples: number of bootstrap samples.
        seed: seed of the random numbers.

    Returns:
        Metric name -> (low, high), as fractions.
    """
    rows, columns = counts.nonzero()
    cells = counts[rows, columns]
    n, num_classes = int(cells.sum()), len(counts)
    hit = rows == columns
    random = np.random.default_rng(seed)
    # (cells, num_classes) each: sums over cells become matrix products
    to_true, to_predicted = np.eye(num_classes)[rows], np.eye(num_classes)[columns]
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
    for size in [1000] * (resamples // 1000) + [resamples % 1000] * (resamples % 1000 > 0):
        sample = random.multinomial(n, cells / n, size=size).astype(float)  # (size, cells)
        hits = sample[:, hit] @ to_true[hit]
        for name, values in _metrics(hits, sample @ to_true, sample @ to_predicted).items():
            drawn[name].append(values)
    return {
        name: tuple(np.quantile(np.concatenate(drawn[name]), (0.025, 0.975)).tolist())
        for name in METRICS[1:]
    }


def classification_metrics(
    true: Labels, predicted: Labels, classes: Labels | None = None
) -> dict[str, Any]:
    """Compute accuracy and macro precision, recall and F1 with 95 % confidence intervals.

    Args:
        true, predicted: (n,) classes, as names or integers.
        classes: all classes of the data set, over which the macro averages are taken; by default
            those that occur.

    Returns:
        For each metric its value and ``<metric>_interval`` [low, high], all as fractions, and n.
        Intervals are Wilson's for accuracy and bootstrap intervals for the others.
    """
    counts = confusion_counts(true, predicted, classes)
    n = int(counts.sum())
    intervals = bootstrap_intervals(counts)
    intervals["accuracy"] = wilson_interval(int(counts.trace()), n)
    result: dict[str, float | int | list[float]] = {}
    for name, value in metrics_of_counts(counts).items():
        result |= {name: float(value), f"{name}_interval": list(intervals[name])}
    return result | {"n": n}


def per_class_table(true: Labels, predicted: Labels, classes: Sequence) -> pd.DataFrame:
    """Make a table of metrics with one row per class.

    Returns:
        The columns class, precision, recall and f1 (fractions), images and predicted_images
        (numbers of images of this true and predicted class).
    """
    precision, recall, f1, images = precision_recall_fscore_support(
        true, predicted, labels=list(classes), zero_division=0
    )
    counts = confusion_counts(true, predicted, classes)
    return pd.DataFrame(
        {
            "class": list(classes),
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "images": images,
            "predicted_images": counts.sum(0),
        }
    )


def most_confused(counts: np.ndarray, classes: Sequence[str], pairs: int = 15) -> pd.DataFrame:
    """Make a table of the pairs of classes that are confused most often.

    Args:
        counts: (num_classes, num_classes) confusion matrix.
        classes: class names.
        pairs: largest number of pairs to return.

    Returns:
        One row per pair with at least one confusion: class_a, class_b, a_as_b and b_as_a (counts
        in each direction), images (their sum), and share (their fraction of both classes'
        images).
    """
    rows = [
        {
            "class_a": classes[a],
            "class_b": classes[b],
            "a_as_b": int(counts[a, b]),
            "b_as_a": int(counts[b, a]),
            "images": int(counts[a, b] + counts[b, a]),
            "share": float((counts[a, b] + counts[b, a]) / counts[[a, b]].sum()),
        }
        for a in range(len(classes))
        for b in range(a + 1, len(classes))
        if counts[a, b] + counts[b, a]
    ]
    columns = ["class_a", "class_b", "a_as_b", "b_as_a", "images", "share"]
    table = pd.DataFrame(rows, columns=columns)
    table = table.sort_values(["images", "share"], ascending=False, kind="stable")
    return table.head(pairs).reset_index(drop=True)


def worst_mistakes(predictions: pd.DataFrame, num_images: int = 12) -> pd.DataFrame:
    """Return the wrong predictions with the highest confidence, most confident first.

    Args:
        predictions: with the columns path, true, predicted, confidence (a fraction) and more.
        num_images: largest number of predictions to return.
    """
    wrong = predictions[predictions["true"] != predictions["predicted"]]
    worst = wrong.sort_values("confidence", ascending=False, kind="stable").head(num_images)
    return worst[["path", "true", "predicted", "confidence"]].reset_index(drop=True)


def metrics_by_size(predictions: pd.DataFrame, major_axes: Mapping[str, float]) -> pd.DataFrame:
    """Compute the metrics in each size class, whose upper limit is twice its lower one.

    Octaves are the usual classes of plankton size spectra (Sheldon et al. 1972).

    Args:
        predictions: one row per test image; columns path, true and predicted.
        major_axes: path -> major axis in mm; images without one are left out.

    Returns:
        One row per size class with images, ascending: from_mm, to_mm, classes (number of true
        classes), images, accuracy, accuracy_low and accuracy_high (Wilson's 95 % interval), and
        the averages over these classes of precision, recall and f1; fractions.
    """
    known = predictions[predictions["path"].isin(list(major_axes))]
    octave = np.floor(np.log2(known["path"].map(major_axes).to_numpy(float))).astype(int)
    rows = []
    for exponent, found in known.groupby(octave):
        right = int((found["true"] == found["predicted"]).sum())
        low, high = wilson_interval(right, len(found))
        classes = sorted(found["true"].unique())
        precision, recall, f1, _ = precision_recall_fscore_support(
            *(found["true"], found["predicted"]), labels=classes, average="macro", zero_division=0
        )
        rows.append(
            {
                "from_mm": 2.0**exponent,
                "to_mm": 2.0 ** (exponent + 1),
                "classes": len(classes),
                "images": len(found),
                "accuracy": right / len(found),
                "accuracy_low": low,
                "accuracy_high": high,
                "precision": precision,
                "recall": recall,
                "f1": f1,
            }
        )
    return pd.DataFrame(rows)
