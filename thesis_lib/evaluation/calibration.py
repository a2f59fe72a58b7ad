"""Measure the calibration of a classifier, and improve it by temperature scaling."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

BINS = 15
LEAST, MOST = 0.01, 10_000.0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Fit the temperature by which to divide the logits: it minimises the cross-entropy.

    Source: Guo et al., On calibration of modern neural networks (ICML 2017), section 4.2.

    Args:
        logits: (n, num_classes), of validation images.
        labels: (n,) integer class labels.

    Returns:
        The temperature, from LEAST to MOST; 1 leaves the confidence unchanged.
    """
    logits, labels = logits.double().cpu(), labels.cpu()

    def loss(log_temperature: float) -> float:
        return float(nn.functional.cross_entropy(logits / np.exp(log_temperature), labels))

    found = minimize_scalar(loss, bounds=(np.log(LEAST), np.log(MOST)), method="bounded")
    return float(np.exp(found.x))


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """Compare accuracy with confidence, in confidence bins of equal width.

    Args:
        confidence: (n,) in [0, 1].
        right: (n,) bool, whether each prediction is correct.
        bins: number of bins.

    Returns:
        One row per bin: low and high (its edges), images (their number), and the mean confidence
        and accuracy (NaN for an empty bin).
    """
    edges = np.linspace(0, 1, bins + 1)
    # A bin includes its upper edge, and the first bin also 0.
    index = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, bins - 1)
    images = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, weights=values, minlength=bins) for values in (confidence, right)]
    means = [np.divide(s, images, out=np.full(bins, np.nan), where=images > 0) for s in sums]
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "images": images,
            "confidence": means[0],
            "accuracy": means[1],
        }
    )


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Compute the expected calibration error from a reliability table, as a fraction.

    It is the mean of |accuracy - confidence| over the bins, weighted by their numbers of images.
    """
    distance = (table["accuracy"] - table["confidence"]).abs().fillna(0)
    return float((distance * table["images"]).sum() / table["images"].sum())


def calibration(logits: Tensor, right: np.ndarray, temperature: float) -> pd.DataFrame:
    """Return the :func:`reliability` table before and after temperature scaling.

    Args:
        logits: (n, num_classes).
        right: (n,) bool, whether each prediction is correct.
        temperature: fitted on validation.

    Returns:
        The rows of both tables, with a column temperature, which is 1 before scaling.
    """
    tables = []
    for divisor in (1.0, temperature):
        confidence = (logits.double().cpu() / divisor).softmax(1).amax(1).numpy()
        table = reliability(confidence, right)
        table.insert(0, "temperature", divisor)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
