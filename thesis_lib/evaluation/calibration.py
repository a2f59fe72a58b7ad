"""How far a classifier's confidence can be believed, and a temperature that mends it."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

BINS = 15
LEAST, MOST = 0.01, 10_000.0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that logits are to be divided by: least cross-entropy on validation.

    Guo et al., On calibration of modern neural networks (ICML 2017), section 4.2.

    Args:
        logits: (n, classes).
        labels: (n,) whole numbers.

    Returns:
        From LEAST to MOST; 1 leaves the confidence as it is.
    """
    logits, labels = logits.double().cpu(), labels.cpu()

    def loss(log_temperature: float) -> float:
        return float(nn.functional.cross_entropy(logits / np.exp(log_temperature), labels))

    found = minimize_scalar(loss, bounds=(np.log(LEAST), np.log(MOST)), method="bounded")
    return float(np.exp(found.x))


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """Accuracy against confidence, in bins of equal width.

    Args:
        confidence: (n,) on [0, 1].
        right: (n,) truth values.
        bins: how many.

    Returns:
        low, high (of the bin), images, confidence and accuracy (means; NaN for an empty bin).
    """
    edges = np.linspace(0, 1, bins + 1)
    # A bin holds its upper edge, and the first also 0.
    number = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, bins - 1)
    images = np.bincount(number, minlength=bins)
    sums = [np.bincount(number, weights=values, minlength=bins) for values in (confidence, right)]
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
    """Mean distance of accuracy from confidence over a reliability table's bins; a fraction."""
    distance = (table["accuracy"] - table["confidence"]).abs().fillna(0)
    return float((distance * table["images"]).sum() / table["images"].sum())


def calibration(logits: Tensor, right: np.ndarray, temperature: float) -> pd.DataFrame:
    """:func:`reliability` as the classifier says (temperature 1), and after temperature scaling.

    Args:
        logits: (n, classes).
        right: (n,) truth values of the decisions.
        temperature: fitted on validation.

    Returns:
        The rows of both, told apart by the column temperature.
    """
    tables = []
    for divisor in (1.0, temperature):
        confidence = (logits.double().cpu() / divisor).softmax(1).amax(1).numpy()
        table = reliability(confidence, right)
        table.insert(0, "temperature", divisor)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
