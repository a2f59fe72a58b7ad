"""Probe checkpoints (stage 2): train linear heads on frozen backbones, select on validation."""

import contextlib
import functools
import math
import os
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from thesis_lib.data.cache import Images
from thesis_lib.errors import InputError
from thesis_lib.evaluation.features import FrozenBackbone, Labelled, labels_of, report_empty
from thesis_lib.evaluation.forests import train_head
from thesis_lib.evaluation.knn import LookupTable, unit_vectors
from thesis_lib.evaluation.linear_heads import best_row
from thesis_lib.evaluation.statistics.calibration import choose_temperature
from thesis_lib.evaluation.statistics.comparison import compare
from thesis_lib.evaluation.statistics.intervals import wilson_interval
from thesis_lib.heads import create_head
from thesis_lib.methods import LINEAR
from thesis_lib.runs.artifacts import read_probe
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.plateau import epochs_to_probe, run_plateau
from thesis_lib.runs.stages import inputs_digest
from thesis_lib.system import distributed
from thesis_lib.system.files import write_csv, write_json
from thesis_lib.system.progress import track
from thesis_lib.training import checkpoints
from thesis_lib.training.stage import Stage, run_stage


def probe_checkpoints(run: RunDirectory) -> pd.DataFrame:
    """Train linear heads for all checkpoints from the loss plateau on; choose one on validation.

    Reads the checkpoints, ``metrics.csv``, and the train and val images. Writes ``heads/``,
    ``probe.csv``, ``probe_curves.csv``, ``head.pth`` and, last, ``selection.json``. Returns at
    once if the selection was made with the same settings. If probing was interrupted, it resumes
    after the last finished checkpoint.

    Returns:
        One row per checkpoint: checkpoint (epoch), head_epoch, val_accuracy and its Wilson 95 %
        confidence interval (fractions), val_correct, val_images, head_learning_rate, and
        knn_accuracy (validation accuracy of the nearest neighbour by cosine similarity).

    Raises:
        InputError: if the run is not trained to its last epoch, or its data have changed.
    """
    inputs_digest(run, "probe")  # raises if the run is not ready
    run_stage("probe", run, _probe)
    return read_probe(run)


def _probe(stage: Stage) -> None:
    run, inputs = stage.run, inputs_digest(stage.run, "probe")
    epochs = distributed.from_rank_0(lambda: epochs_to_probe(run))
    train, val = stage.images("train"), stage.images("val")
    if distributed.rank() == 0:
        run.selection_file.unlink(missing_ok=True)
        if run.test_file.is_file():  # an earlier choice; the next test adds it to its history
            os.replace(run.test_file, run.superseded_test_file)
        run.write_config()
    heads: dict[int, dict[str, Any]] = {}
    damaged = []
    for epoch in track(epochs, len(epochs), "probing", "checkpoint"):
        file = run.heads / f"head_{epoch:04d}.pth"
        head = distributed.from_rank_0(functools.partial(_read_head, file, inputs))
        if head is None:
            backbone = _load(run, epoch)
            is_sound = distributed.on_all_ranks(backbone is not None)
            if backbone is None or not is_sound:
                damaged.append(epoch)
                continue
            features = _probe_features(backbone, train, val)
            if distributed.rank():
                continue
            head = {
                "inputs": inputs,
                "checkpoint": epoch,
                "categories": stage.dataset.categories,
                "crop_bottom": stage.dataset.crop_bottom,
            }
            head |= _probe_checkpoint(backbone, features, train, val, stage.dataset.classes)
            checkpoints.save(file, head)
        heads[epoch] = head
        if distributed.rank() == 0:
            write_csv(run.probe_curves_file, _curves(heads))
            write_csv(run.probe_file, _probe_table(heads))
    if len(damaged) == len(epochs):
        raise InputError(
            f"all checkpoints of {run.path.name} from epoch {epochs[0]} on are damaged"
        )
    if distributed.rank() == 0:
        _select(run, heads, damaged)


def _load(run: RunDirectory, epoch: int) -> FrozenBackbone | None:
    """Load a checkpoint's backbone; report a damaged checkpoint and return None."""
    try:
        return FrozenBackbone.load(run, epoch)
    except checkpoints.DamagedError as error:
        print(f"!! left out: {error}", flush=True)
        return None


def _select(run: RunDirectory, heads: dict[int, dict[str, Any]], damaged: list[int]) -> None:
    """Choose a checkpoint and head epoch; write ``head.pth`` and ``selection.json``."""
    chosen = best_checkpoint(_probe_table(heads))
    head = heads[int(chosen["checkpoint"])]
    checkpoints.save(run.head_file, head | {"head_epoch": int(chosen["head_epoch"])})
    selection = {
        "checkpoint": int(chosen["checkpoint"]),
        "head_epoch": int(chosen["head_epoch"]),
        "head_learning_rate": _number_or_none(chosen["head_learning_rate"]),
        "val_accuracy": float(chosen["val_accuracy"]),
        "val_accuracy_interval": [
            float(chosen["val_accuracy_low"]),
            float(chosen["val_accuracy_high"]),
        ],
        "val_images": int(chosen["val_images"]),
        "temperature": head["temperature"],
        "why_unscaled": head["why_unscaled"],
        "against_last": _against_last(heads, head),
        "plateau": run_plateau(run),
        "probed": list(heads),
        "damaged_checkpoints": damaged,
        "inputs": head["inputs"],  # other settings make it another choice
    }
    write_json(run.selection_file, selection)


def _number_or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _curves(heads: dict[int, dict[str, Any]]) -> pd.DataFrame:
    """Return the table ``probe_curves.csv``: one row per checkpoint, learning rate and epoch."""
    rows = ({"checkpoint": e, **row} for e, head in heads.items() for row in head["curve"])
    return pd.DataFrame(rows)


def _probe_table(heads: dict[int, dict[str, Any]]) -> pd.DataFrame:
    """Return the table ``probe.csv``: one row per checkpoint."""
    return pd.DataFrame(
        _probe_row(epoch, head["curve"], len(head["val_right"]))
        | {"knn_accuracy": head["knn_right"].float().mean().item()}
        for epoch, head in heads.items()
    )


def _against_last(heads: dict[int, dict[str, Any]], chosen: dict[str, Any]) -> str:
    """Describe whether the chosen checkpoint differs significantly from the last one.

    The test favours the chosen checkpoint, which was chosen for its accuracy on the same images.
    """
    last = heads[max(heads)]
    if last is chosen:
        return "the chosen checkpoint is the last one"
    pair = compare(
        f"the last checkpoint ({last['checkpoint']})",
        f"the chosen one ({chosen['checkpoint']})",
        last["val_right"].numpy(),
        chosen["val_right"].numpy(),
    )
    return pair.sentence


def _read_head(file: Path, inputs: str) -> dict[str, Any] | None:
    """Read a head that was trained before; None if it is missing, damaged or has other inputs."""
    with contextlib.suppress(checkpoints.DamagedError):
        head = checkpoints.load(file) if file.is_file() else {}
        is_current = "val_confidence" in head  # an earlier version did not save it
        return head if is_current and head.get("inputs") == inputs else None
    return None


def _probe_features(backbone: FrozenBackbone, train: Images, val: Images) -> tuple[Tensor, ...]:
    """Return the features of random crops of train, and of its and val's views of evaluation."""
    evaluated = backbone.features(train)
    report_empty(backbone, "training", evaluated)
    views = backbone.config.head_views if backbone.config.head == LINEAR else 0
    crops = backbone.features(train, views) if views else evaluated
    return crops, evaluated, backbone.features(val)


def _probe_checkpoint(
    backbone: FrozenBackbone,
    features: tuple[Tensor, ...],
    train: Images,
    val: Images,
    classes: list[str],
) -> dict[str, Any]:
    """Train the heads of a checkpoint, and return the content of ``heads/head_<epoch>.pth``."""
    device, labels = backbone.device, labels_of(val.split)
    crops, evaluated, val_features = features[0], features[1][0], features[2][0]
    weights, curve = train_head(
        Labelled(crops, labels_of(train.split).to(device)),
        Labelled(val_features.to(device), labels.to(device)),
        len(classes),
        backbone.config,
    )
    with torch.inference_mode():
        logits = create_head(weights)(val_features)
    temperature, why_unscaled = choose_temperature(logits, labels)
    confidence, predicted = (logits.double() / temperature).softmax(1).max(1)
    return {
        "temperature": temperature,
        "why_unscaled": why_unscaled,
        "val_right": predicted == labels,
        "val_labels": labels,
        "val_predicted": predicted,
        "val_confidence": confidence,
        "knn_right": _knn_right(evaluated, train, val_features, val, classes),
        "classes": classes,
        "mean": backbone.mean,
        "std": backbone.std,
        "weights": weights,
        "curve": curve,
    }


def _knn_right(
    features: Tensor, train: Images, queries: Tensor, val: Images, classes: list[str]
) -> Tensor:
    """Return whether each val image (m,) has the class of its nearest training image."""
    vectors = unit_vectors(features.numpy())
    table = LookupTable(vectors, train.split.labels, train.split.files, classes)
    _, rows = table.search(unit_vectors(queries.numpy()))
    return torch.from_numpy(table.vote(rows) == val.split.labels)


def best_checkpoint(probe: pd.DataFrame) -> pd.Series:
    """Return the row with the highest validation accuracy; ties go to the latest checkpoint."""
    ordered = probe.sort_values(["val_accuracy", "checkpoint"])
    return ordered.iloc[-1]


def _probe_row(epoch: int, curve: list[dict[str, float]], num_images: int) -> dict[str, float]:
    best = best_row(curve)
    correct = round(best["val_accuracy"] * num_images)
    low, high = wilson_interval(correct, num_images)
    return {
        "checkpoint": epoch,
        "head_epoch": best["head_epoch"],
        "val_accuracy": best["val_accuracy"],
        "val_accuracy_low": low,
        "val_accuracy_high": high,
        "val_correct": correct,
        "val_images": num_images,
        "head_learning_rate": best["head_learning_rate"],
    }
