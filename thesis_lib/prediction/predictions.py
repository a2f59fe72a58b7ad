"""Classify new images with a finished model and find their nearest training images."""

import csv
import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from thesis_lib.config import FALSE_POSITIVE_RATE
from thesis_lib.data.loaders import open_loader
from thesis_lib.errors import InputError
from thesis_lib.evaluation.knn import unit_vectors
from thesis_lib.evaluation.lookup_table import StoredTable
from thesis_lib.evaluation.statistics import Thresholds, choose_thresholds
from thesis_lib.prediction.finished_model import FinishedModel
from thesis_lib.prediction.new_images import NewImages, printable
from thesis_lib.system import distributed
from thesis_lib.system.files import atomic_path
from thesis_lib.system.progress import track
from thesis_lib.system.torch_errors import translate_torch_errors

MOST_SHOWN = 5  # number of most likely classes listed per image
IMAGES_PER_BATCH = 64
BATCH = f"{IMAGES_PER_BATCH} images"
DECIMALS = 6
UNKNOWN, UNCLASSIFIED = "unknown", "unclassified"  # why an image gets no label


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image, or the ``problem`` that prevented it.

    ``classes`` are the most likely classes, best first, with their ``confidences`` after
    temperature scaling.
    ``nearest_image`` is the training image with the highest cosine ``similarity`` of features,
    and ``nearest_class`` its class; these are empty without a look-up table. ``label`` is the most
    likely class unless the image was ``rejected``, as UNKNOWN or UNCLASSIFIED.
    """

    path: str
    problem: str = ""
    classes: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    nearest_image: str = ""
    nearest_class: str = ""
    similarity: float | None = None
    label: str = ""
    rejected: str = ""


@dataclass(frozen=True)
class Limits:
    """What an image must reach to get a label: a similarity, and a confidence in its class."""

    similarity: float
    thresholds: Thresholds

    def rejected(self, name: str, confidence: float, similarity: float | None) -> str:
        """Return UNKNOWN, UNCLASSIFIED, or "" for an image that gets the label ``name``."""
        if similarity is not None and similarity < self.similarity:
            return UNKNOWN
        return UNCLASSIFIED if confidence < self.thresholds.of_class(name) else ""


def choose_limits(
    model: FinishedModel,
    false_positive_rate: float = FALSE_POSITIVE_RATE,
    wanted_precision: float | None = None,
) -> Limits:
    """Choose the limits on the validation images, or the similarity on the training images.

    Args:
        model: the finished model.
        false_positive_rate: share of in-distribution images that may be called unknown; it sets
            the similarity.
        wanted_precision: share of the labels that shall be right; it sets the thresholds of
            confidence. None rejects no image for its confidence.

    Raises:
        InputError: if one of them is not between 0 and 1, or an earlier version trained the head,
            which did not save the confidences of the validation images.
    """
    if not 0 < false_positive_rate < 1:
        raise InputError(
            f"the false positive rate must be between 0 and 1, not {false_positive_rate}"
        )
    least = model.table.unlike_below(false_positive_rate) if model.table else 0.0
    similarity = round(least, DECIMALS)  # as those that are compared with it
    if wanted_precision is None:
        return Limits(similarity, Thresholds(0.0, {}))
    if not 0 < wanted_precision <= 1:
        raise InputError(
            f"the wanted precision must be above 0 and at most 1, not {wanted_precision}"
        )
    if model.validation.empty:
        raise InputError(
            "the confidences of the validation images are unknown, because an earlier version "
            "trained the head: run `thesis probe` again, and then `thesis export` for an export"
        )
    return Limits(similarity, choose_thresholds(model.validation, wanted_precision))


def predict_images(
    model: FinishedModel, images: Sequence[str], limits: Limits | None = None
) -> Iterator[Prediction]:
    """Classify images one batch at a time and yield their predictions in order.

    Memory use does not depend on the number of images.

    Args:
        model: the finished model.
        images: paths of the images.
        limits: as returned by :func:`choose_limits`, which is called if they are not given.
    """
    found = _predictions(model, images, limits or choose_limits(model))
    return track(found, len(images), "predicting", "image")


def _predictions(
    model: FinishedModel, images: Sequence[str], limits: Limits
) -> Iterator[Prediction]:
    batches = list(BatchSampler(range(len(images)), IMAGES_PER_BATCH, drop_last=False))
    compute = functools.partial(_outputs, model, images)
    with (
        distributed.report_worker_errors(),
        translate_torch_errors(BATCH, model.backbone.config.worker_timeout),
    ):
        for paths, problems, logits, features in distributed.gather_batches(compute, batches):
            answers = iter(_classify(model, logits, features) if len(logits) else ())
            for path, problem in zip(paths, problems, strict=True):
                found = {"problem": problem} if problem else next(answers)
                yield _labelled(Prediction(printable(path), **found), limits)


def _labelled(one: Prediction, limits: Limits) -> Prediction:
    if one.problem:
        return one
    rejected = limits.rejected(one.classes[0], one.confidences[0], one.similarity)
    return replace(one, label="" if rejected else one.classes[0], rejected=rejected)


def _outputs(
    model: FinishedModel, images: Sequence[str], batches: list[list[int]]
) -> Iterator[tuple[list[str], list[str], Tensor, Tensor]]:
    """Yield the paths, problems, logits and features of each of these batches, on the CPU."""
    config, device = model.backbone.config, model.backbone.device
    head, dataset = model.head.to(device), NewImages(images, config)
    with open_loader(dataset, batches, config, device, IMAGES_PER_BATCH) as loader:
        for paths, pixels, problems in loader:
            logits = features = torch.empty(0)
            if len(pixels):
                with torch.inference_mode():
                    features = model.backbone(pixels)
                    logits, features = head(features).cpu(), features.cpu()
            yield paths, problems, logits, features


def _classify(model: FinishedModel, logits: Tensor, features: Tensor) -> list[dict[str, Any]]:
    """Turn a batch's logits (n, num_classes) and features (n, d) into fields of predictions."""
    sound = features.isfinite().all(1) & logits.isfinite().all(1)  # (n,)
    shares = (logits.double() / model.temperature).softmax(1)
    order = logits.argsort(dim=1, descending=True, stable=True)[:, :MOST_SHOWN]  # (n, k)
    shares = shares.gather(1, order).numpy().round(DECIMALS)
    answers = [
        {
            "classes": tuple(model.classes[label] for label in labels),
            "confidences": tuple(row),
        }
        if is_sound
        else {"problem": "the backbone's features of this image are not finite; check the image"}
        for labels, row, is_sound in zip(
            order.tolist(), shares.tolist(), sound.tolist(), strict=True
        )
    ]
    if model.table is not None and sound.any():
        neighbours = _neighbours(model.table, features[sound].numpy())
        for index, neighbour in zip(sound.nonzero().flatten().tolist(), neighbours, strict=True):
            answers[index] |= neighbour
    return answers


def _neighbours(stored: StoredTable, features: np.ndarray) -> list[dict[str, Any]]:
    """Find the nearest training image for each of the features (n, d)."""
    table = stored.chosen
    similarity, rows = table.search(unit_vectors(features))
    return [
        {
            "nearest_image": table.files[row],
            "nearest_class": table.classes[table.labels[row]],
            "similarity": round(value, DECIMALS),
        }
        for value, row in zip(similarity[:, 0].tolist(), rows[:, 0].tolist(), strict=True)
    ]


def counted(found: Iterable[Prediction], counts: Counter) -> Iterator[Prediction]:
    """Yield the predictions unchanged while counting them: all, unreadable and rejected ones."""
    for prediction in found:
        counts["images"] += 1
        counts["unreadable"] += bool(prediction.problem)
        counts[prediction.rejected] += 1
        yield prediction


def ranked(num_classes: int) -> list[tuple[str, str]]:
    """Return the column names of the most likely classes and of their confidences, best first."""
    later = range(2, min(num_classes, MOST_SHOWN) + 1)
    return [
        ("predicted", "confidence"),
        *((f"predicted_{rank}", f"confidence_{rank}") for rank in later),
    ]


def write_predictions(found: Iterable[Prediction], output: Path, num_classes: int) -> None:
    """Write predictions as CSV, one row per image, without ever leaving a partial file.

    Args:
        found: the predictions; each is written as it arrives.
        output: the file to write; an existing file is replaced.
        num_classes: number of classes of the model.
    """
    names = [name for pair in ranked(num_classes) for name in pair]
    nearest = ["nearest_image", "nearest_class", "similarity"]
    with (
        atomic_path(output) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", *names, *nearest, "label", "rejected", "problem"])
        for one in found:
            pairs = zip(one.classes, one.confidences, strict=True)
            likeliest = [cell for pair in pairs for cell in pair] or [""] * len(names)
            neighbour = [one.nearest_image, one.nearest_class, one.similarity]
            decision = [one.label, one.rejected, one.problem]
            writer.writerow([one.path, *likeliest, *neighbour, *decision])


def check_output(output: Path, images: Sequence[str]) -> None:
    """Check that the output file can be written without overwriting an image, link or device.

    Args:
        output: the file to write.
        images: paths of the images to classify.

    Raises:
        InputError: if it cannot, with the reason.
    """
    if output.is_dir():
        raise InputError(f"{output} is a folder; give the file to write, such as {output}/NAME")
    there = next(parent for parent in output.absolute().parents if parent.exists())
    if not there.is_dir():
        raise InputError(f"{output} cannot be written: {there} is a file, not a folder")
    if output.exists() and any(output.samefile(image) for image in images if Path(image).exists()):
        raise InputError(f"{output} is one of the images; choose another output file")
    if output.is_symlink() or (output.exists() and not output.is_file()):
        # The finished file is moved into place, which would replace the link or the device.
        raise InputError(
            f"{output} is a link or a device, not a regular file; choose another output file"
        )
