"""Reject images that are classified with low confidence, to reach a wanted precision."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from thesis_lib.evaluation.statistics.intervals import wilson_interval

FEWEST = 100  # validation images assigned to a class, for a threshold of its own
WANTED = (0.90, 0.95, 0.99)
MOST_POINTS = 500  # of a curve: a plot cannot show more


@dataclass(frozen=True)
class Thresholds:
    """The lowest confidence that is accepted: 0 accepts all, infinity none.

    ``overall`` is one threshold for all images. ``by_class`` has one for each predicted class;
    classes to which fewer than FEWEST validation images are assigned have the overall one.
    """

    overall: float
    by_class: Mapping[str, float]

    def of_class(self, name: str) -> float:
        """Return the threshold of images that are predicted as a class."""
        return self.by_class.get(name, self.overall)

    def accepts(self, predicted: pd.Series, confidence: pd.Series) -> np.ndarray:
        """Return whether each image (n,) is accepted by the threshold of its predicted class."""
        return (confidence >= predicted.map(self.of_class)).to_numpy()


def validation_confidences(head: dict[str, Any]) -> pd.DataFrame:
    """Return true, predicted and calibrated confidence of each validation image of ``head.pth``.

    There are no rows if an earlier version trained the head.
    """
    if "val_confidence" not in head:
        return pd.DataFrame(columns=["true", "predicted", "confidence"])
    classes = np.array(head["classes"])
    return pd.DataFrame(
        {
            "true": classes[head["val_labels"].numpy()],
            "predicted": classes[head["val_predicted"].numpy()],
            "confidence": head["val_confidence"].numpy().round(6),
        }
    )


def choose_thresholds(val: pd.DataFrame, wanted: float) -> Thresholds:
    """Choose the lowest thresholds with the wanted precision on the validation images.

    The precision of the accepted images is the share that is classified correctly. On other images
    it is about as high on average, so in some samples lower than wanted.

    Args:
        val: true, predicted and confidence of the validation images.
        wanted: the precision, a fraction.
    """
    overall = _lowest(val, wanted)
    by_class = {
        str(name): _lowest(images, wanted) if len(images) >= FEWEST else overall
        for name, images in val.groupby("predicted")
    }
    return Thresholds(overall, by_class)


def _lowest(images: pd.DataFrame, wanted: float) -> float:
    """Return the lowest confidence at and above which the precision is at least as wanted.

    It is 0 if all images have this precision, and infinity if the most confident ones lack it.
    """
    ordered = images.sort_values("confidence", ascending=False, kind="stable")
    right = (ordered["true"] == ordered["predicted"]).to_numpy()
    confidence = ordered["confidence"].to_numpy()
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    is_last = np.append(confidence[1:] < confidence[:-1], True)  # of images with equal confidence
    reached = np.flatnonzero(is_last & (precision >= wanted))
    if not len(reached):
        return float("inf")
    is_all = reached[-1] == len(images) - 1
    return 0.0 if is_all else float(confidence[reached[-1]])


def rejection_metrics(test: pd.DataFrame, accepted: np.ndarray) -> dict[str, float]:
    """Measure what is accepted of some images, and how much recall that costs.

    Args:
        test: true and predicted of n images.
        accepted: (n,) bool.

    Returns:
        Fractions: coverage (the share that is accepted), precision of the accepted images (NaN if
        there are none) with Wilson's 95 % interval in precision_low and precision_high; and the
        macro recall of the classes that have images, before and after rejection.
    """
    right = (test["true"] == test["predicted"]).to_numpy()
    kept, kept_right = int(accepted.sum()), int(right[accepted].sum())
    low, high = wilson_interval(kept_right, kept) if kept else (float("nan"), float("nan"))
    recalls = pd.DataFrame({"before": right, "after": right & accepted}).groupby(
        test["true"].to_numpy()
    )
    before, after = recalls.mean().mean()
    return {
        "coverage": kept / len(test),
        "precision": kept_right / kept if kept else float("nan"),
        "precision_low": low,
        "precision_high": high,
        "recall_before": float(before),
        "recall_after": float(after),
    }


def rejection_by_class(test: pd.DataFrame, thresholds: Thresholds) -> pd.DataFrame:
    """Measure for each predicted class what its threshold accepts.

    Args:
        test: true, predicted and confidence of the test images.
        thresholds: as returned by :func:`choose_thresholds`.

    Returns:
        One row per class with test images: class, threshold, coverage (of the images predicted as
        it), precision_before, precision with its interval, recall_before and recall_after;
        fractions, NaN where there is no image to compute them from.
    """
    accepted = thresholds.accepts(test["predicted"], test["confidence"])
    rows = []
    for name in sorted(test["true"].unique()):
        predicted, true = (test["predicted"] == name).to_numpy(), (test["true"] == name).to_numpy()
        kept, hits = predicted & accepted, predicted & true
        low, high = float("nan"), float("nan")
        if kept.any():
            low, high = wilson_interval(int((hits & kept).sum()), int(kept.sum()))
        rows.append(
            {
                "class": name,
                "threshold": thresholds.of_class(name),
                "coverage": _share(kept, predicted),
                "precision_before": _share(hits, predicted),
                "precision": _share(hits & kept, kept),
                "precision_low": low,
                "precision_high": high,
                "recall_before": _share(hits, true),
                "recall_after": _share(hits & kept, true),
            }
        )
    return pd.DataFrame(rows)


def _share(some: np.ndarray, of_all: np.ndarray) -> float:
    return float(some.sum() / of_all.sum()) if of_all.any() else float("nan")


def coverage_curve(confidence: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    """Compute the accuracy of the most confident images, for each number of them.

    Args:
        confidence: (n,) in [0, 1].
        right: (n,) bool, whether each image is classified correctly.

    Returns:
        One row for each number of images: coverage (their share) and accuracy; ``oracle`` is the
        accuracy if every correct image were more confident than every mistake.
    """
    numbers = np.arange(1, len(right) + 1)
    ordered = right[np.argsort(-confidence, kind="stable")]
    oracle = np.minimum(numbers, right.sum())
    return pd.DataFrame(
        {
            "coverage": numbers / len(right),
            "accuracy": np.cumsum(ordered) / numbers,
            "oracle": oracle / numbers,
        }
    )


def area(curve: pd.DataFrame, column: str = "accuracy") -> float:
    """Compute the area under a coverage curve: the mean accuracy over all coverages.

    It is 1 minus the area under the risk-coverage curve (AURC). Source: Geifman and El-Yaniv,
    Selective classification for deep neural networks (NeurIPS 2017).
    """
    return float(curve[column].mean())


def thinned(curve: pd.DataFrame) -> pd.DataFrame:
    """Return at most MOST_POINTS rows of a curve, evenly spaced, with the last one."""
    rows = np.linspace(0, len(curve) - 1, min(MOST_POINTS, len(curve))).round().astype(int)
    return curve.iloc[rows].reset_index(drop=True)
