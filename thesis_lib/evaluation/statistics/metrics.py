"""Compute classification metrics from true and predicted classes.

Accuracy and macro-averaged precision, recall and F1 are defined as in scikit-learn. The macro
averages are taken over all classes of the data set, with 0 for classes where a metric is
undefined because they have no test image or no prediction.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from thesis_lib.evaluation.statistics.intervals import (
    MACRO,
    class_f1_intervals,
    macro_intervals,
    macro_metrics,
    wilson_interval,
)

METRICS = ("accuracy", *MACRO)
LARGE = 10  # test images of a class whose metrics are not mostly chance
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
    hits, true = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1)
    macro = np.moveaxis(macro_metrics(hits, true, counts.sum(-2)), -1, 0)
    return {"accuracy": hits.sum(-1) / true.sum(-1), **dict(zip(MACRO, macro, strict=True))}


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
        Intervals are Wilson's for accuracy and :func:`macro_intervals` for the others.
    """
    counts = confusion_counts(true, predicted, classes)
    n = int(counts.sum())
    intervals = macro_intervals(counts)
    intervals["accuracy"] = wilson_interval(int(counts.trace()), n)
    result: dict[str, float | int | list[float]] = {}
    for name, value in metrics_of_counts(counts).items():
        result |= {name: float(value), f"{name}_interval": list(intervals[name])}
    return result | {"n": n}


def large_class_metrics(
    true: Labels, predicted: Labels, classes: Labels, least: int = LARGE
) -> dict[str, Any] | None:
    """Compute the macro metrics over the classes that have enough test images.

    A class with a few test images can move the average over all classes by a whole point.

    Args:
        true, predicted: (n,) classes, as names or integers.
        classes: all classes of the data set.
        least: the smallest number of test images of a class that counts.

    Returns:
        Each metric but accuracy with its ``<metric>_interval`` [low, high], as fractions; ``least``
        and ``classes``, the number of classes that count. None if this is every class, or none.
    """
    counts = confusion_counts(true, predicted, classes)
    counted = counts.sum(1) >= least
    if counted.all() or not counted.any():
        return None
    measured = macro_metrics(np.diagonal(counts), counts.sum(1), counts.sum(0), counted)
    values = dict(zip(MACRO, measured.tolist(), strict=True))
    result = {"least": least, "classes": int(counted.sum()), **values}
    limits = macro_intervals(counts, counted).items()
    return result | {f"{name}_interval": list(interval) for name, interval in limits}


def floors(train_labels: np.ndarray, test_labels: np.ndarray) -> dict[str, float]:
    """Return the test accuracies (fractions) of two ways to guess without seeing an image.

    "most frequent class" always predicts the largest class of the training images; "random by
    prevalence" predicts each class with its share of the training images (an expected value).

    Args:
        train_labels, test_labels: integer labels (n,) and (m,).
    """
    num_classes = max(train_labels.max(), test_labels.max()) + 1
    counts = (np.bincount(labels, minlength=num_classes) for labels in (train_labels, test_labels))
    train, test = (count / count.sum() for count in counts)
    return {
        "most frequent class": float(test[train.argmax()]),
        "random by prevalence": float(train @ test),
    }


def per_class_table(true: Labels, predicted: Labels, classes: Sequence) -> pd.DataFrame:
    """Make a table of metrics with one row per class.

    Returns:
        The columns class, precision, recall, f1 and the limits of its 95 % interval, f1_low and
        f1_high (fractions; see :func:`class_f1_intervals`), images and predicted_images (numbers
        of images of this true and predicted class).
    """
    precision, recall, f1, images = precision_recall_fscore_support(
        true, predicted, labels=list(classes), zero_division=0
    )
    counts = confusion_counts(true, predicted, classes)
    low, high = class_f1_intervals(counts).T
    return pd.DataFrame(
        {
            "class": list(classes),
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "f1_low": low,
            "f1_high": high,
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
