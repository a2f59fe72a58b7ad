"""Compute metrics over groups of classes, such as those with many, some or few training images."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from thesis_lib.evaluation.statistics.intervals import (
    MACRO,
    macro_intervals,
    macro_metrics,
    wilson_interval,
)
from thesis_lib.evaluation.statistics.metrics import Labels, confusion_counts

# The usual strata of long-tailed recognition (Liu et al., CVPR 2019): name -> fewest images
STRATA = {"many (> 100)": 101, "some (20 to 100)": 20, "few (< 20)": 0}


def metrics_by_stratum(
    true: Labels, predicted: Labels, train_images: Mapping[str, int]
) -> pd.DataFrame:
    """Compute the metrics over the classes of each stratum of training images.

    Args:
        true, predicted: (n,) class names of the test images.
        train_images: all classes of the data set -> number of training images.

    Returns:
        As :func:`metrics_of_groups`, from many to few.
    """
    stratum_of = {name: _stratum(number) for name, number in train_images.items()}
    return metrics_of_groups(true, predicted, stratum_of, list(STRATA))


def metrics_of_groups(
    true: Labels, predicted: Labels, group_of: Mapping[str, str], groups: Sequence[str]
) -> pd.DataFrame:
    """Compute the metrics over the classes of each group.

    Args:
        true, predicted: (n,) class names of the test images.
        group_of: all classes -> their group.
        groups: the groups, in the order of the rows.

    Returns:
        One row per group that has test images: group, classes, images (of these classes, in the
        test set), accuracy on these images with Wilson's 95 % interval, and macro precision, recall
        and F1 over these classes with their 95 % intervals; fractions, the limits in
        ``<metric>_low`` and ``<metric>_high``.
    """
    counts = confusion_counts(true, predicted, list(group_of))
    hits, rows = np.diagonal(counts), []
    of_classes = np.array(list(group_of.values()))
    for name in groups:
        counted = of_classes == name
        images, right = int(counts[counted].sum()), int(hits[counted].sum())
        if not images:
            continue
        low, high = wilson_interval(right, images)
        row = {"group": name, "classes": int(counted.sum()), "images": images}
        row |= {"accuracy": right / images, "accuracy_low": low, "accuracy_high": high}
        measured = macro_metrics(hits, counts.sum(1), counts.sum(0), counted)
        values = dict(zip(MACRO, measured.tolist(), strict=True))
        for metric, (low, high) in macro_intervals(counts, counted).items():
            row |= {metric: values[metric], f"{metric}_low": low, f"{metric}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def _stratum(number: int) -> str:
    return next(name for name, least in STRATA.items() if number >= least)
