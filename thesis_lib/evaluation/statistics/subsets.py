"""Compute metrics of subsets of the test images: by size, and by group, such as a cruise."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

from thesis_lib.evaluation.statistics.intervals import wilson_interval

FEWEST_IMAGES = 10  # of a group, for the spread over groups


def metrics_by_size(predictions: pd.DataFrame, major_axes: Mapping[str, float]) -> pd.DataFrame:
    """Compute the metrics in each size class, whose upper limit is twice its lower one.

    Octaves are the usual classes of plankton size spectra (Sheldon et al. 1972).

    Args:
        predictions: one row per test image; columns path, true and predicted.
        major_axes: path -> major axis in mm; images without one are left out.

    Returns:
        One row per size class with images, ascending: from_mm, to_mm, and as
        :func:`_metrics_of`.
    """
    known = predictions[predictions["path"].isin(list(major_axes))]
    octave = np.floor(np.log2(known["path"].map(major_axes).to_numpy(float))).astype(int)
    return pd.DataFrame(
        {"from_mm": 2.0**exponent, "to_mm": 2.0 ** (exponent + 1)} | _metrics_of(found)
        for exponent, found in known.groupby(octave)
    )


def metrics_by_group(predictions: pd.DataFrame, groups: Mapping[str, str]) -> pd.DataFrame:
    """Compute the metrics in each group of images, such as a sample, a cruise or a camera frame.

    Args:
        predictions: one row per test image; columns path, true and predicted.
        groups: path -> group; images without one are left out.

    Returns:
        One row per group, the largest first: group, and as :func:`_metrics_of`.
    """
    known = predictions[predictions["path"].isin(list(groups))]
    rows = [
        {"group": name} | _metrics_of(found)
        for name, found in known.groupby(known["path"].map(groups))
    ]
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    return table.sort_values("images", ascending=False, kind="stable").reset_index(drop=True)


def _metrics_of(found: pd.DataFrame) -> dict[str, float]:
    """Return the metrics of some predictions.

    Returns:
        classes (number of true classes), images, accuracy, accuracy_low and accuracy_high
        (Wilson's 95 % interval), and the averages over these classes of precision, recall and f1;
        fractions.
    """
    right = int((found["true"] == found["predicted"]).sum())
    low, high = wilson_interval(right, len(found))
    classes = sorted(found["true"].unique())
    precision, recall, f1, _ = precision_recall_fscore_support(
        *(found["true"], found["predicted"]), labels=classes, average="macro", zero_division=0
    )
    return {
        "classes": len(classes),
        "images": len(found),
        "accuracy": right / len(found),
        "accuracy_low": low,
        "accuracy_high": high,
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }


def spread_of_groups(table: pd.DataFrame) -> tuple[int, float, float]:
    """Compare how much the accuracy varies between groups with what chance alone would give.

    Args:
        table: as returned by :func:`metrics_by_group`.

    Returns:
        The number of groups with FEWEST_IMAGES or more; the standard deviation of their
        accuracies; and the one expected if all had the accuracy of all their images together,
        by the binomial distribution (fractions, NaN for fewer than two groups).
    """
    large = table[table["images"] >= FEWEST_IMAGES]
    if len(large) < 2:
        return len(large), float("nan"), float("nan")
    accuracy = np.average(large["accuracy"], weights=large["images"])
    chance = np.sqrt((accuracy * (1 - accuracy) / large["images"]).mean())
    return len(large), float(large["accuracy"].std(ddof=1)), float(chance)
