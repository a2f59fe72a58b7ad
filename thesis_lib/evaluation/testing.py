"""Test the chosen backbone and head on the test split (stage 3), after the choice is saved."""

import os
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from thesis_lib.data.cache import Images
from thesis_lib.errors import InputError
from thesis_lib.evaluation.features import FrozenBackbone, report_empty
from thesis_lib.evaluation.statistics.calibration import calibration, expected_calibration_error
from thesis_lib.evaluation.statistics.metrics import (
    classification_metrics,
    floors,
    large_class_metrics,
)
from thesis_lib.evaluation.statistics.rejection import validation_confidences
from thesis_lib.runs.artifacts import tested_before
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_done, selection_digest
from thesis_lib.system import distributed
from thesis_lib.system.files import read_json, write_csv, write_json
from thesis_lib.training.checkpoints import load_classifier
from thesis_lib.training.stage import Stage, run_stage

MOST_EMBEDDED = 10_000


def final_test(run: RunDirectory) -> dict:
    """Classify the test split with the chosen checkpoint and head.

    Reads ``selection.json``, ``head.pth``, the chosen checkpoint and the test images. Writes
    ``predictions.csv`` (path, true, predicted, confidence, then each class's probability),
    ``embedding.csv`` (x, y, true, predicted), ``calibration.csv``, ``confidences.csv`` (the
    calibrated confidence of each validation and test image) and, last, ``test.json``.
    Returns at once if they were made from the same selection. Earlier tests of other choices
    are listed in the ``history`` of ``test.json``.

    Returns:
        The content of ``test.json``, with the values of
        :func:`thesis_lib.evaluation.classification_metrics` (metrics as fractions).

    Raises:
        InputError: if no checkpoint has been selected yet, or the data have changed.
    """
    selection_digest(run)  # raises if nothing is selected
    if not is_done(run, "probe"):
        raise InputError(
            f"{run.path.name} was not probed with these settings; first run notebook 03 or "
            f"`thesis probe {run.path.name}` with them"
        )
    run_stage("test", run, _test)
    return read_json(run.test_file)


def _test(stage: Stage) -> None:
    run, test = stage.run, stage.dataset.splits["test"]
    digest = selection_digest(run)
    model, head = load_classifier(run)
    backbone = FrozenBackbone(model.backbone, head["mean"], head["std"], run.config)
    features = backbone.features(Images(test))
    if distributed.rank():
        return
    empty = report_empty(backbone, "test", features)
    if run.test_file.is_file():
        os.replace(run.test_file, run.superseded_test_file)
    with torch.inference_mode():
        logits = model.head(features[0])
    probabilities = logits.softmax(1).numpy()  # (n, classes)

    classes = np.array(head["classes"])
    predictions = pd.DataFrame(
        {
            "path": test.files,
            "true": classes[test.labels],
            "predicted": classes[probabilities.argmax(1)],
            "confidence": probabilities.max(1),
        }
    )
    columns = pd.DataFrame(probabilities, columns=classes)
    write_csv(run.predictions_file, pd.concat((predictions, columns), axis=1).round(6))
    embedding = embedding_table(features[0].numpy(), predictions, run.config.seed)
    write_csv(run.embedding_file, embedding)
    selection = read_json(run.selection_file)
    temperature = selection["temperature"]
    right = (predictions["true"] == predictions["predicted"]).to_numpy()
    tables = calibration(logits, right, temperature)
    write_csv(run.calibration_file, tables)
    scaled = (logits.double() / temperature).softmax(1).amax(1).numpy()
    write_csv(run.confidences_file, _confidences(head, predictions, scaled))
    half = len(tables) // 2
    absent = np.setdiff1d(np.arange(len(classes)), test.labels)
    result = classification_metrics(predictions["true"], predictions["predicted"], head["classes"])
    result |= {
        "large_classes": large_class_metrics(
            predictions["true"], predictions["predicted"], head["classes"]
        ),
        "temperature": temperature,
        "why_unscaled": selection["why_unscaled"],
        "calibration_error": expected_calibration_error(tables[:half]),
        "calibration_error_scaled": expected_calibration_error(tables[half:]),
        "classes": head["classes"],
        "classes_without_test_image": classes[absent].tolist(),
        "floors": floors(stage.dataset.splits["train"].labels, test.labels),
        "images_without_organism": empty,
        "skipped_images": stage.dataset.left_out("test"),
        "checkpoint": head["checkpoint"],
        "head_epoch": head["head_epoch"],
        "selection": digest,
        "history": _history(run, digest),
    }
    write_json(run.test_file, result)
    run.superseded_test_file.unlink(missing_ok=True)


def _confidences(
    head: dict[str, Any], predictions: pd.DataFrame, confidence: np.ndarray
) -> pd.DataFrame:
    """Return the classes and calibrated confidences of the validation and test images."""
    val = validation_confidences(head).assign(split="val")
    test = predictions[["true", "predicted"]].assign(split="test", confidence=confidence)
    table = pd.concat((val, test), ignore_index=True)
    return table[["split", "true", "predicted", "confidence"]].round(6)


def _history(run: RunDirectory, digest: str) -> list[dict]:
    """Return the other choices that were tested before, oldest first."""
    if not run.superseded_test_file.is_file():
        return []
    before = read_json(run.superseded_test_file)
    return tested_before(before, ("selection", "checkpoint", "head_epoch", "accuracy", "n"), digest)


def embedding_table(features: np.ndarray, predictions: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Embed features (n, d) in two dimensions: x, y, true, predicted, with one row per image.

    If there are more than MOST_EMBEDDED images, only that many are drawn at random: a plot
    cannot show more, and the time that t-SNE takes grows faster than their number.
    """
    random = np.random.default_rng(seed)
    chosen = np.sort(random.permutation(len(features))[:MOST_EMBEDDED])
    points = pd.DataFrame(embed(features[chosen], seed), columns=["x", "y"]).round(4)
    return points.join(predictions[["true", "predicted"]].iloc[chosen].reset_index(drop=True))


def embed(features: np.ndarray, seed: int) -> np.ndarray:
    """Embed features in two dimensions by PCA to 50 dimensions, then t-SNE: (n, d) -> (n, 2).

    Features are scaled to unit length first. For fewer than ten images, only PCA is used.
    """
    n, d = features.shape
    if n == 1:
        return np.zeros((1, 2))
    scaled = features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)
    reduced = PCA(min(50, n, d), random_state=seed).fit_transform(scaled)
    if n < 10:
        return np.pad(reduced, ((0, 0), (0, 2)))[:, :2]
    tsne = TSNE(perplexity=min(30, (n - 1) / 3), init="pca", random_state=seed)
    return tsne.fit_transform(reduced)
