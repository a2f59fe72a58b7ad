"""A finished model on new images: their classes, how sure, and what they look like."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from thesis_lib.config import FALSE_POSITIVE_RATE, RunConfig
from thesis_lib.data import transforms
from thesis_lib.data.loaders import Loader, worker_count
from thesis_lib.errors import InputError
from thesis_lib.evaluation.knn import unit_vectors
from thesis_lib.evaluation.lookup_table import StoredTable
from thesis_lib.models import Classifier
from thesis_lib.prediction.finished_model import FinishedModel
from thesis_lib.prediction.new_images import CentralViews, printable
from thesis_lib.system import distributed
from thesis_lib.system.device import choose_device
from thesis_lib.system.files import atomic_path
from thesis_lib.system.progress import track
from thesis_lib.system.torch_errors import translate_torch_errors

MOST_SHOWN = 5  # likeliest classes of an image
IMAGES_PER_BATCH = 64
BATCH = f"{IMAGES_PER_BATCH} images"
DECIMALS = 6


@dataclass(frozen=True)
class Prediction:
    """What a finished model says of one image, or the problem with it.

    ``classes`` are the likeliest, with their calibrated ``confidences``; ``nearest_image`` is the
    training image whose features are most like its own, by cosine ``similarity``.
    """

    path: str
    problem: str = ""
    classes: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    nearest_image: str = ""
    nearest_class: str = ""
    similarity: float | None = None
    looks_unlike: bool | None = None


def predict_images(
    model: FinishedModel, images: Sequence[str], false_positive_rate: float = FALSE_POSITIVE_RATE
) -> Iterator[Prediction]:
    """Classify images, in their order, in little memory however many there are.

    Args:
        model: what classifies.
        images: their paths.
        false_positive_rate: share of images like those trained on that may look unlike them.

    Raises:
        InputError: for a share that is none.
    """
    if not 0 < false_positive_rate < 1:
        raise InputError(
            f"the false positive rate must be between 0 and 1, not {false_positive_rate}"
        )
    return track(
        _predictions(model, images, false_positive_rate), len(images), "predicting", "image"
    )


def _predictions(
    model: FinishedModel, images: Sequence[str], false_positive_rate: float
) -> Iterator[Prediction]:
    facts = (model.image_size, model.mean, model.std, model.config)
    batches = len(_batches(images))
    with (
        distributed.report_worker_errors(),
        translate_torch_errors(BATCH, model.config.worker_timeout),
    ):
        distributed.call_on_workers(_help, model.classifier.cpu(), images, *facts)
        own = _own_outputs(model.classifier, images, *facts)
        for paths, problems, logits, features in distributed.gather_batches(own, batches):
            answers = iter(
                _classify(model, logits, features, false_positive_rate) if len(logits) else ()
            )
            for path, problem in zip(paths, problems, strict=True):
                found = {"problem": problem} if problem else next(answers)
                yield Prediction(printable(path), **found)


def _help(classifier: Classifier, images: Sequence[str], *facts: Any) -> None:
    """Send rank 0 the outputs of this rank's batches."""
    with translate_torch_errors(BATCH, facts[-1].worker_timeout):
        for outputs in _own_outputs(classifier, images, *facts):
            distributed.send_batch(outputs)


def _batches(images: Sequence[str]) -> list[list[int]]:
    return list(BatchSampler(range(len(images)), IMAGES_PER_BATCH, drop_last=False))


def _own_outputs(
    classifier: Classifier,
    images: Sequence[str],
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    config: RunConfig,
) -> Iterator[tuple[list[str], list[str], Tensor, Tensor]]:
    """Yield paths, problems, logits and features of each batch that falls to this rank."""
    device = choose_device(config)
    classifier.to(device, memory_format=torch.channels_last)
    dataset = CentralViews(images, image_size)
    batches = _batches(images)[distributed.rank() :: distributed.world_size()]
    workers = worker_count(config, device)
    loader = Loader(dataset, batches, workers, device.type == "cuda", config.worker_timeout)
    with loader:
        for paths, pixels, problems in loader:
            logits = features = torch.empty(0)
            if len(pixels):
                logits, features = _outputs(classifier, pixels, mean, std, device)
            yield paths, problems, logits, features


def _classify(
    model: FinishedModel, logits: Tensor, features: Tensor, false_positive_rate: float
) -> list[dict[str, Any]]:
    """The fields of the predictions of a batch, by logits (n, classes) and features (n, d)."""
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
        else {"problem": "the backbone's features of it are not finite; look at the image"}
        for labels, row, is_sound in zip(
            order.tolist(), shares.tolist(), sound.tolist(), strict=True
        )
    ]
    if model.table is not None and sound.any():
        neighbours = _neighbours(model.table, features[sound].numpy(), false_positive_rate)
        for number, neighbour in zip(sound.nonzero().flatten().tolist(), neighbours, strict=True):
            answers[number] |= neighbour
    return answers


@torch.inference_mode()
def _outputs(
    classifier: Classifier,
    pixels: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Logits (n, classes) and features (n, d) of views (n, size, size, 3) uint8, on the CPU."""
    views = transforms.to_float(pixels.to(device, non_blocking=True))
    features = classifier.backbone(transforms.normalize(views, mean, std))
    return classifier.head(features).cpu(), features.cpu()


def _neighbours(
    stored: StoredTable, features: np.ndarray, false_positive_rate: float
) -> list[dict[str, Any]]:
    """The nearest training image of each of the features (n, d)."""
    table, least = stored.chosen, stored.unlike_below(false_positive_rate)
    similarity, rows = table.search(unit_vectors(features))
    return [
        {
            "nearest_image": table.files[row],
            "nearest_class": table.classes[table.labels[row]],
            "similarity": round(value, DECIMALS),
            "looks_unlike": value < least,
        }
        for value, row in zip(similarity[:, 0].tolist(), rows[:, 0].tolist(), strict=True)
    ]


def counted(found: Iterable[Prediction], counts: Counter) -> Iterator[Prediction]:
    """Pass predictions on, and count ``images``, ``unreadable`` and ``unlike`` ones."""
    for prediction in found:
        counts["images"] += 1
        counts["unreadable"] += bool(prediction.problem)
        counts["unlike"] += bool(prediction.looks_unlike)
        yield prediction


def ranked(classes: int) -> list[tuple[str, str]]:
    """Names of the columns of an image's likeliest classes and their confidences."""
    later = range(2, min(classes, MOST_SHOWN) + 1)
    return [
        ("predicted", "confidence"),
        *((f"predicted_{rank}", f"confidence_{rank}") for rank in later),
    ]


def write_predictions(found: Iterable[Prediction], output: Path, classes: int) -> None:
    """Write predictions as CSV, a row an image as they come; the file is whole or not there.

    Args:
        found: the predictions.
        output: the file; one that is there is replaced.
        classes: how many the model tells apart.
    """
    names = [name for pair in ranked(classes) for name in pair]
    nearest = ["nearest_image", "nearest_class", "similarity", "looks_unlike"]
    with (
        atomic_path(output) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", *names, *nearest, "problem"])
        for one in found:
            pairs = zip(one.classes, one.confidences, strict=True)
            likeliest = [cell for pair in pairs for cell in pair] or [""] * len(names)
            unlike = {None: "", True: "true", False: "false"}[one.looks_unlike]
            neighbour = [one.nearest_image, one.nearest_class, one.similarity, unlike]
            writer.writerow([one.path, *likeliest, *neighbour, one.problem])


def check_output(output: Path, images: Sequence[str]) -> None:
    """Refuse a place where no file can be written, or where an image, a link or a device lies.

    Raises:
        InputError: saying which.
    """
    if output.is_dir():
        raise InputError(f"{output} is a folder; give the file to write, such as {output}/NAME")
    there = next(parent for parent in output.absolute().parents if parent.exists())
    if not there.is_dir():
        raise InputError(f"{output} cannot be written: {there} is a file, not a folder")
    if output.exists() and any(output.samefile(image) for image in images if Path(image).exists()):
        raise InputError(f"{output} is one of the images; give another file to write")
    if output.is_symlink() or (output.exists() and not output.is_file()):
        # Written whole or not at all, the file would take the place of the link or the device.
        raise InputError(f"{output} is a link or a device, no plain file; give a file to write")
