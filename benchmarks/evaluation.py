"""From predictions to all figures and tables, for a test set of the thesis's size."""

import contextlib
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from benchmarks.timing import Result, best, in_turns
from thesis_lib import figures
from thesis_lib.config import RunConfig
from thesis_lib.evaluation.statistics.calibration import calibration
from thesis_lib.evaluation.statistics.metrics import classification_metrics, confusion_counts
from thesis_lib.evaluation.testing import embedding_table
from thesis_lib.reporting.catalogue.tables import write_table
from thesis_lib.system.files import write_csv, write_json

WIDTH = 2048  # of the features


def made_up_test(images: int | None = None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """True and predicted classes with DYB's 87 class sizes, about 5 % confused with neighbours.

    Args:
        images: how many to draw with those shares; None for the 7,147 of the published split.
    """
    file = resources.files("thesis_lib.reporting") / "published" / "dyb_class_counts.csv"
    counts = pd.read_csv(file)
    classes, rng = counts["class"].tolist(), np.random.default_rng(0)
    true = np.repeat(np.arange(len(classes)), counts["test"])
    if images is not None:
        true = rng.choice(true, images)
    wrong = rng.random(len(true)) < 0.05
    shift = rng.choice([-2, -1, 1, 2], len(true)) * wrong
    return true, (true + shift) % len(classes), classes


def evaluate(true: np.ndarray, predicted: np.ndarray, classes: list[str], folder: Path) -> None:
    """What the final test and notebook 04 do once the features are there."""
    rng, names = np.random.default_rng(1), np.array(classes)
    centres = rng.normal(0, 1, (len(classes), WIDTH)).astype(np.float32)
    features = centres[predicted] + rng.normal(0, 1, (len(true), WIDTH)).astype(np.float32)
    probabilities = np.full((len(true), len(classes)), 0.1 / len(classes))
    probabilities[np.arange(len(true)), predicted] += 0.9
    predictions = pd.DataFrame({"true": names[true], "predicted": names[predicted]})
    columns = pd.DataFrame(probabilities, columns=classes)
    write_csv(folder / "predictions.csv", pd.concat((predictions, columns), axis=1))
    points = embedding_table(features, predictions, seed=42)
    write_json(folder / "test.json", classification_metrics(true, predicted))

    figures.set_style()
    results = SimpleNamespace(
        config=RunConfig(),
        folder=folder,
        source={"line": "made up", "label": "", "runs": {}},
        classes=classes,
        predictions=predictions.assign(path=np.arange(len(true)).astype(str)),
        confusion=confusion_counts(predictions["true"], predictions["predicted"], classes),
        leaks=made_up_leaks(len(true)),
    )
    write_table("without_leaks", results)
    write_table("most_confused", results)
    per_class = write_table("per_class", results).assign(support=1 + np.arange(len(classes)))
    logits = torch.from_numpy(np.log(probabilities))
    bins = calibration(logits, true == predicted, temperature=1.5)
    thumbnails = list(rng.integers(0, 256, (12, 450, 450, 3), dtype=np.uint8))
    for name, figure in (
        (
            "confusion_matrix",
            figures.results.confusion_matrix(results.confusion, classes, normalize=True),
        ),
        (
            "confusion_matrix_counts",
            figures.results.confusion_matrix(results.confusion, classes, normalize=False),
        ),
        ("per_class_f1", figures.results.per_class_f1(per_class)),
        ("reliability", figures.confidence.reliability(bins, (0.01, 0.01))),
        ("worst_mistakes", figures.results.mistakes(thumbnails, [classes[0]] * 12)),
        ("embedding", figures.results.embedding(points, classes)),
    ):
        figures.save(figure, results.folder / name, {**results.source, "name": name})


def made_up_leaks(images: int) -> pd.DataFrame:
    """Every tenth test image has a near-duplicate, every twentieth its own pixels."""
    rows = [("identical pixels", i) for i in range(0, images, 20)]
    rows += [("near-duplicate", i) for i in range(0, images, 10)]
    leaks = pd.DataFrame(rows, columns=["kind", "file"]).assign(split="test")
    leaks["kind"] = leaks["kind"].astype("category")
    return leaks.astype({"file": str})


def evaluation_time(rounds: int, device: torch.device) -> Iterator[Result]:
    """Goal 10: the whole evaluation of 7,147 images; the metrics alone beside it."""
    true, predicted, classes = made_up_test()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        seconds = in_turns(
            min(rounds, 3),
            whole=lambda: evaluate(true, predicted, classes, Path(folder)),
            metrics=lambda: classification_metrics(true, predicted),
        )
    taken, metrics = best(seconds["whole"]), best(seconds["metrics"])
    yield Result(
        10,
        f"evaluation, figures and tables of {len(true):,} images of {len(classes)} classes",
        "s",
        taken,
        metrics,
        "metrics and intervals alone",
        taken / metrics,
        "< 60 s",
        taken < 60,
        seconds,
    )
