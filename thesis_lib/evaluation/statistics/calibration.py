"""Measure the calibration of a classifier, and improve it by temperature scaling."""

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

BINS = 15
LEAST, MOST = 0.01, 10_000.0
FOLDS = 5


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


def choose_temperature(logits: Tensor, labels: Tensor) -> tuple[float, str]:
    """Fit a temperature if that helps on images that it was not fitted on; otherwise take 1.

    By cross-fitting: each image is scaled by the temperature that was fitted on the other folds.
    Scaling helps if this lowers the cross-entropy and does not raise the expected calibration
    error.

    Args:
        logits: (n, num_classes), of validation images, sorted by class.
        labels: (n,) integer class labels.

    Returns:
        The temperature, and why it is 1, or "".
    """
    logits, labels = logits.double().cpu(), labels.cpu()
    temperature, right = fit_temperature(logits, labels), logits.argmax(1) == labels
    if right.all() or not 1.01 * LEAST < temperature < 0.99 * MOST:
        return 1.0, "the cross-entropy of the validation images has no minimum"
    scaled, fold = logits.clone(), torch.arange(len(labels)) % FOLDS
    for own in (fold == number for number in range(min(FOLDS, len(labels)))):
        scaled[own] /= fit_temperature(logits[~own], labels[~own])
    before, after = (_errors(values, labels) for values in (logits, scaled))
    if after[0] >= before[0] or after[1] > before[1]:
        return 1.0, "temperature scaling does not help on validation images left out of the fit"
    return temperature, ""


def _errors(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the cross-entropy and the expected calibration error."""
    confidence, predicted = logits.softmax(1).max(1)
    table = reliability(confidence.numpy(), (predicted == labels).numpy())
    loss = float(nn.functional.cross_entropy(logits, labels))
    return loss, expected_calibration_error(table)


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
