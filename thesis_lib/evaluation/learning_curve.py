"""Measure how the head's accuracy grows with the number of labelled images per class.

Heads are trained on 10, 20, 50, ... images of each class, with the features that the look-up table
is made of, and evaluated on validation images. The backbone stays the same: it was trained on all
training images, or on none of them if it is frozen.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from thesis_lib.config import RunConfig
from thesis_lib.evaluation.features import Labelled
from thesis_lib.evaluation.forests import train_head
from thesis_lib.evaluation.statistics.metrics import classification_metrics
from thesis_lib.evaluation.statistics.seeds import summarize
from thesis_lib.heads import create_head

SIZES = (10, 20, 50, 100, 200, 500)
DRAWS = 5  # random choices of the images
STEPS, LEAST_BATCH = 20, 8  # a head needs about 20 steps in each of its epochs
SHOWN = ("accuracy", "f1")


def measure_learning_curve(
    train: Labelled, val: Labelled, num_classes: int, config: RunConfig
) -> pd.DataFrame:
    """Train heads on growing numbers of images per class and evaluate them on validation images.

    A class with fewer images contributes all of them. With few images the batches are smaller than
    ``head_batch_size``, so that the heads are trained for enough steps.

    Args:
        train: (n, d) features of the training images, and integer labels.
        val: (m, d) features of the validation images, and labels.
        num_classes: number of classes.
        config: the head's settings, with a single learning rate, and the seed.

    Returns:
        One row per number of images, the last one with all images: images_per_class, images, draws,
        and accuracy and f1 (macro) as means over the draws, with ``<metric>_low`` and
        ``<metric>_high``, their 95 % interval over draws and validation images; fractions.
    """
    counts = np.bincount(train.labels, minlength=num_classes)
    rows = []
    for size in (*(size for size in SIZES if size < counts.max()), int(counts.max())):
        right, metrics = [], []
        for chosen in draw_images(train.labels, size, config.seed):
            predicted = _predictions(train, chosen, val, num_classes, config)
            right.append(predicted == val.labels)
            metrics.append(classification_metrics(val.labels, predicted, range(num_classes)))
        row: dict[str, float] = {
            "images_per_class": size,
            "images": len(chosen),
            "draws": len(metrics),
        }
        found = summarize(metrics, np.stack(right, axis=1))
        for name in SHOWN:
            row[name] = found[name].mean
            row |= {f"{name}_low": found[name].low, f"{name}_high": found[name].high}
        rows.append(row)
    return pd.DataFrame(rows)


def draw_images(labels: np.ndarray, size: int, seed: int) -> Iterator[np.ndarray]:
    """Yield DRAWS random choices of up to ``size`` images of each class; all images only once.

    Choices of more images contain those of fewer images.
    """
    largest = np.bincount(labels).max()
    for draw in range(DRAWS if size < largest else 1):
        order = np.random.default_rng((seed, draw)).permutation(len(labels))
        rank = pd.Series(labels[order]).groupby(labels[order]).cumcount().to_numpy()
        yield np.sort(order[rank < size])


def _predictions(
    train: Labelled, chosen: np.ndarray, val: Labelled, num_classes: int, config: RunConfig
) -> np.ndarray:
    """Train a head on the chosen images and return its predictions for the validation images."""
    batch_size = min(max(len(chosen) // STEPS, LEAST_BATCH), config.head_batch_size)
    features = torch.from_numpy(val.features)
    weights, _ = train_head(
        Labelled(
            torch.from_numpy(train.features[chosen])[None], torch.from_numpy(train.labels[chosen])
        ),
        Labelled(features, torch.from_numpy(val.labels)),
        num_classes,
        config.updated(head_batch_size=batch_size),
    )
    with torch.inference_mode():
        return create_head(weights)(features).argmax(1).numpy()
