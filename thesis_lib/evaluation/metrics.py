"""Metrics and their intervals, from the true and the predicted classes alone.

Accuracy, macro precision, recall and F1 are scikit-learn's, the macro means taken over all
classes of the data set with 0 for a class without a test image or without a prediction.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

METRICS = ("accuracy", "precision", "recall", "f1")
RESAMPLES = 10_000


def confusion_counts(
    true: Sequence, predicted: Sequence, classes: Sequence | None = None
) -> np.ndarray:
    """Count images by true (rows) and predicted (columns) class: (classes, classes).

    Args:
        true, predicted: (n,) classes, as names or numbers.
        classes: all classes of the data set; by default those that occur, sorted.

    Raises:
        ValueError: for arrays of different or no length, or a class that ``classes`` lacks.
    """
    true, predicted = np.asarray(true), np.asarray(predicted)
    if true.shape != predicted.shape or true.ndim != 1 or not len(true):
        raise ValueError(
            f"true and predicted must be of one length, not {true.shape} and {predicted.shape}"
        )
    occurring = np.unique(np.concatenate((true, predicted)))
    classes = occurring if classes is None else np.asarray(classes)
    unknown = set(occurring.tolist()) - set(classes.tolist())
    if unknown:
        raise ValueError(f"classes lacks {', '.join(map(repr, sorted(unknown)))}")
    return confusion_matrix(true, predicted, labels=classes)


def metrics_of_counts(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy and macro precision, recall and F1 of confusion counts.

    Args:
        counts: (..., classes, classes), rows the true classes.

    Returns:
        Each metric of METRICS, (...).
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return _metrics(hits, counts.sum(-1), counts.sum(-2))


def _metrics(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics from hits, true and predicted images per class, (..., classes) each."""
    return {
        "accuracy": hits.sum(-1) / true.sum(-1),
        "precision": _share(hits, predicted).mean(-1),
        "recall": _share(hits, true).mean(-1),
        "f1": _share(2 * hits, true + predicted).mean(-1),
    }


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(whole.shape), where=whole > 0)


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, as fractions."""
    interval = binomtest(int(correct), int(n)).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_intervals(
    counts: np.ndarray, resamples: int = RESAMPLES, seed: int = 42
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap 95 % intervals over test images of the macro metrics.

    Drawing n images with replacement is drawing the counts of the cells of the confusion
    matrix that are not empty from a multinomial distribution, which is what is done.
    """
    rows, columns = counts.nonzero()
    cells = counts[rows, columns]
    n, classes = int(cells.sum()), len(counts)
    hit = rows == columns
    random = np.random.default_rng(seed)
    # (cells, classes) each: the sums over cells become matrix products
    to_true, to_predicted = np.eye(classes)[rows], np.eye(classes)[columns]
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
    true: Sequence, predicted: Sequence, classes: Sequence | None = None
) -> dict[str, float | int | list[float]]:
    """Accuracy and macro precision, recall and F1 with their 95 % intervals.

    Args:
        true, predicted: (n,) classes, as names or numbers.
        classes: all classes of the data set, over which the macro means are taken; by default
            those that occur.

    Returns:
        For each metric its value and ``<metric>_interval`` [low, high], all fractions, and n.
        Wilson's interval for accuracy, a bootstrap's for the others.
    """
    counts = confusion_counts(true, predicted, classes)
    n = int(counts.sum())
    intervals = bootstrap_intervals(counts)
    intervals["accuracy"] = wilson_interval(int(counts.trace()), n)
    result: dict[str, float | int | list[float]] = {}
    for name, value in metrics_of_counts(counts).items():
        result |= {name: float(value), f"{name}_interval": list(intervals[name])}
    return result | {"n": n}


def per_class_table(true: Sequence, predicted: Sequence, classes: Sequence) -> pd.DataFrame:
    """A row a class: class, precision, recall, f1 (fractions), images, predicted_images."""
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
    """The pairs of classes that are confused most, both ways added.

    Returns:
        class_a, class_b, a_as_b, b_as_a, images (their sum), and share of the two classes'
        images; no pair without a confusion.
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


def worst_mistakes(predictions: pd.DataFrame, images: int = 12) -> pd.DataFrame:
    """The wrong predictions that the classifier was surest of, surest first.

    Args:
        predictions: columns path, true, predicted, confidence (a fraction) and more.
        images: how many at most.
    """
    wrong = predictions[predictions["true"] != predictions["predicted"]]
    worst = wrong.sort_values("confidence", ascending=False, kind="stable").head(images)
    return worst[["path", "true", "predicted", "confidence"]].reset_index(drop=True)
