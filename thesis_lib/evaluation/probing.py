"""Probe checkpoints (stage 2): train linear heads on frozen backbones, select on validation."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from thesis_lib.data.cache import Images, open_images
from thesis_lib.data.datasets import DataSet
from thesis_lib.data.statistics import DataStatistics
from thesis_lib.errors import InputError
from thesis_lib.evaluation.calibration import fit_temperature
from thesis_lib.evaluation.comparison import compare
from thesis_lib.evaluation.features import extract_features, labels_of
from thesis_lib.evaluation.knn import LookupTable, unit_vectors
from thesis_lib.evaluation.linear_heads import best_row, train_heads
from thesis_lib.evaluation.metrics import wilson_interval
from thesis_lib.runs.artifacts import read_metrics, read_probe
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.provenance import stage
from thesis_lib.runs.stages import is_probed, probe_inputs
from thesis_lib.system import distributed
from thesis_lib.system.device import choose_device
from thesis_lib.system.files import write_csv, write_json
from thesis_lib.system.paths import relative_to_root
from thesis_lib.system.progress import track
from thesis_lib.training import checkpoints
from thesis_lib.training.checkpoints import kept_epochs
from thesis_lib.training.launcher import run_under_torchrun
from thesis_lib.training.stage import run_data

SMOOTHING_SHARE = 20  # to find its plateau, the loss is averaged over 1/20 of the epochs
FEWEST_PROBED = 3


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
    inputs = probe_inputs(run)
    if is_probed(run) or run_under_torchrun("probe", run):
        return read_probe(run)
    with run_data(run, ("train", "val")) as (dataset, statistics):
        return _probe(run, dataset, statistics, inputs)


def _probe(
    run: RunDirectory, dataset: DataSet, statistics: DataStatistics, inputs: dict[str, Any]
) -> pd.DataFrame:
    train, val = (
        open_images(dataset, name, statistics, run.config)[0] for name in ("train", "val")
    )
    epochs = epochs_to_probe(run)
    run.selection_file.unlink(missing_ok=True)
    if run.test_file.is_file():  # tests another choice; kept for the history of the next test
        os.replace(run.test_file, run.superseded_test_file)
    run.write_config()

    rows, curves, heads, damaged = [], [], {}, []
    with stage(run, "probe"), distributed.report_worker_errors():
        for epoch in track(epochs, len(epochs), "probing", "checkpoint"):
            head = _read_head(run.heads / f"head_{epoch:04d}.pth")
            if head.get("inputs") != inputs or "knn_right" not in head:
                try:
                    found = _probe_checkpoint(run, epoch, dataset, train, val)
                except checkpoints.DamagedError as error:
                    print(f"!! left out: {error}", flush=True)
                    damaged.append(epoch)
                    continue
                head = {"inputs": inputs, **found}
                checkpoints.save(run.heads / f"head_{epoch:04d}.pth", head)
            heads[epoch] = head
            curves += [{"checkpoint": epoch, **row} for row in head["curve"]]
            row = _probe_row(epoch, head["curve"], len(val))
            rows.append(row | {"knn_accuracy": head["knn_right"].float().mean().item()})
            write_csv(run.probe_curves_file, pd.DataFrame(curves))
            write_csv(run.probe_file, pd.DataFrame(rows))

        if not rows:
            raise InputError(
                f"all checkpoints of {run.path.name} from epoch {epochs[0]} on are damaged"
            )
        probe = pd.DataFrame(rows)
        chosen = best_checkpoint(probe)
        head = heads[int(chosen["checkpoint"])]
        checkpoints.save(run.head_file, head | {"head_epoch": int(chosen["head_epoch"])})
        selection = {
            "checkpoint": int(chosen["checkpoint"]),
            "head_epoch": int(chosen["head_epoch"]),
            "head_learning_rate": float(chosen["head_learning_rate"]),
            "val_accuracy": float(chosen["val_accuracy"]),
            "val_accuracy_interval": [
                float(chosen["val_accuracy_low"]),
                float(chosen["val_accuracy_high"]),
            ],
            "val_images": len(val),
            "temperature": head["temperature"],
            "against_last": _against_last(heads, head),
            "plateau": run_plateau(run),
            "probed": list(heads),
            "damaged_checkpoints": damaged,
            "inputs": inputs,
        }
        write_json(run.selection_file, selection)
    return probe


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


def _read_head(file: Path) -> dict[str, Any]:
    """Read a head that was trained before; return {} if it is missing or damaged."""
    with contextlib.suppress(checkpoints.DamagedError):
        return checkpoints.load(file) if file.is_file() else {}
    return {}


def _probe_checkpoint(
    run: RunDirectory, epoch: int, dataset: DataSet, train: Images, val: Images
) -> dict[str, Any]:
    """Train the heads of a checkpoint, and return the content of ``heads/head_<epoch>.pth``."""
    device = choose_device(run.config)
    backbone, facts = checkpoints.load_backbone(checkpoints.checkpoint_path(run, epoch))
    common = (run.config, facts["mean"], facts["std"], device)
    views = run.config.head_views
    center_crops = extract_features(backbone, train, *common)
    train_features = extract_features(backbone, train, *common, views) if views else center_crops
    val_features = extract_features(backbone, val, *common)[0]
    weights, curve = train_heads(
        train_features,
        labels_of(train.split).to(device),
        val_features.to(device),
        labels_of(val.split).to(device),
        len(dataset.classes),
        run.config,
    )
    logits = val_features @ weights["weight"].T + weights["bias"]
    labels = labels_of(val.split)
    return {
        "temperature": fit_temperature(logits, labels),
        "val_right": logits.argmax(1) == labels,
        "knn_right": _knn_right(center_crops[0], train, val_features, val, dataset.classes),
        "checkpoint": epoch,
        "classes": dataset.classes,
        "mean": facts["mean"],
        "std": facts["std"],
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


def best_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Select, for each checkpoint, the curve of the best learning rate of the linear head."""
    kept = []
    for _, rows in curves.groupby("checkpoint"):
        rate = best_row(rows.to_dict("records"))["head_learning_rate"]
        kept.append(rows[rows["head_learning_rate"] == rate])
    return pd.concat(kept, ignore_index=True)


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


def smooth(loss: Sequence[float]) -> np.ndarray:
    """Smooth the loss by a centred moving average over 1/20 of the epochs, fewer at the ends."""
    half = len(loss) // SMOOTHING_SHARE // 2
    padded = pd.Series(np.asarray(loss, dtype=float))
    return padded.rolling(2 * half + 1, center=True, min_periods=1).mean().to_numpy()


def find_plateau(loss: Sequence[float], epochs: Sequence[int], share: float) -> int | None:
    """Find the first saved checkpoint at which the smoothed loss has nearly reached its end value.

    Args:
        loss: loss of epochs 1, 2, ...
        epochs: epochs of the saved checkpoints, ascending.
        share: the plateau starts where less than this fraction of the total decrease (from the
            first to the last smoothed value) remains.

    Returns:
        The checkpoint's epoch; None if the loss has not decreased.
    """
    smoothed = smooth(loss)
    fall = smoothed[0] - smoothed[-1]
    if fall <= 0:
        return None
    level = (e for e in epochs if smoothed[e - 1] - smoothed[-1] < share * fall)
    return next(level, None)


def run_plateau(run: RunDirectory) -> int | None:
    """Return the first kept checkpoint on a trained run's loss plateau; None if there is none."""
    loss = [row["loss"] for row in read_metrics(run)]
    if len(loss) < run.config.epochs or not np.isfinite(loss).all():  # imported without losses
        return None
    return find_plateau(loss, kept_epochs(run), run.config.plateau_share)


def epochs_to_probe(run: RunDirectory) -> list[int]:
    """Return the checkpoints to probe: from the plateau (or ``probe_from``) to the last.

    At least the last three are probed. If the losses are unknown because the run was imported
    without them, all checkpoints are probed.

    Raises:
        InputError: if the run has no kept checkpoint.
    """
    kept, config = kept_epochs(run), run.config
    if not kept:
        raise InputError(
            f"{relative_to_root(run.checkpoints)} contains no checkpoint epoch_....pth"
        )
    known = np.isfinite([row["loss"] for row in read_metrics(run)]).any()
    first = run_plateau(run) or (kept[-1] if known else kept[0])
    if config.probe_from is not None:
        first = config.probe_from
    return kept[min(-FEWEST_PROBED, -sum(epoch >= first for epoch in kept)) :]
