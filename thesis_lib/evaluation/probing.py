"""Stage 2: a linear head on the frozen backbone of each checkpoint; selection on validation."""

import contextlib
import os
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from thesis_lib.config import InputError
from thesis_lib.data.cache import Images, open_images
from thesis_lib.data.datasets import DataSet
from thesis_lib.data.statistics import DataStatistics
from thesis_lib.evaluation.calibration import fit_temperature
from thesis_lib.evaluation.comparison import compare
from thesis_lib.evaluation.features import extract_features, labels_of
from thesis_lib.evaluation.knn import unit_vectors
from thesis_lib.evaluation.linear_heads import best_row, train_heads
from thesis_lib.evaluation.lookup_table import LookupTable
from thesis_lib.evaluation.metrics import wilson_interval
from thesis_lib.evaluation.plateau import epochs_to_probe, run_plateau
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_probed, probe_inputs, stage
from thesis_lib.system import distributed
from thesis_lib.system.device import choose_device
from thesis_lib.system.files import write_csv, write_json
from thesis_lib.system.progress import track
from thesis_lib.training import checkpoints
from thesis_lib.training.launcher import share_out
from thesis_lib.training.stage import run_data


def probe_checkpoints(run: RunDirectory) -> pd.DataFrame:
    """Train heads for every checkpoint from the plateau on and choose one on validation.

    Reads the checkpoints, ``metrics.csv``, and the train and val images. Writes ``heads/``,
    ``probe.csv``, ``probe_curves.csv``, ``head.pth`` and, last, ``selection.json``. Returns at
    once where the selection was made with the same settings; goes on after the last finished
    checkpoint where a probing was cut short.

    Returns:
        A row a checkpoint: checkpoint (epoch), head_epoch, val_accuracy and its Wilson 95 %
        interval (fractions), val_correct, val_images, head_learning_rate, knn_accuracy (of the
        nearest training image's class, by cosine similarity of the features).

    Raises:
        InputError: where the run is not trained to its end, or its data have changed.
    """
    inputs = probe_inputs(run)
    if is_probed(run) or share_out("probe", run):
        return pd.read_csv(run.probe_file)
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
    if run.test_file.is_file():  # it is no result of this choice, but the next test tells of it
        os.replace(run.test_file, run.superseded_test_file)
    run.write_config()

    rows, curves, heads, damaged = [], [], {}, []
    with stage(run, "probe"), distributed.others_heeded():
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
            raise InputError(f"no checkpoint of {run.path.name} from epoch {epochs[0]} on is sound")
        probe = pd.DataFrame(rows)
        chosen = choose(probe)
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
    """Whether the chosen checkpoint is shown to differ from the last one, in words.

    It was chosen for its accuracy on these images, which flatters it: the test is generous.
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
    """A head that was trained before; empty where there is none, or it is damaged."""
    with contextlib.suppress(checkpoints.DamagedError):
        return checkpoints.load(file) if file.is_file() else {}
    return {}


def _probe_checkpoint(
    run: RunDirectory, epoch: int, dataset: DataSet, train: Images, val: Images
) -> dict[str, Any]:
    """What ``heads/head_<epoch>.pth`` holds: the best head of a checkpoint, and all curves."""
    device = choose_device(run.config)
    backbone, facts = checkpoints.load_backbone(checkpoints.checkpoint_path(run, epoch))
    common = (run.config, facts["mean"], facts["std"], device)
    views = run.config.head_views
    whole = extract_features(backbone, train, *common)
    train_features = extract_features(backbone, train, *common, views) if views else whole
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
        "knn_right": _knn_right(whole[0], train, val_features, val, dataset.classes),
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
    """Which val images (m,) have the class of the nearest training image."""
    vectors = unit_vectors(features.numpy())
    table = LookupTable(vectors, train.split.labels, train.split.files, classes)
    _, rows = table.search(unit_vectors(queries.numpy()))
    return torch.from_numpy(table.vote(rows) == val.split.labels)


def read_curves(run: RunDirectory) -> pd.DataFrame:
    """``probe_curves.csv``: a row a checkpoint, head learning rate and head epoch."""
    return pd.read_csv(run.probe_curves_file, float_precision="round_trip")


def best_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Of each checkpoint the curve of the head learning rate that reached its best accuracy."""
    kept = []
    for _, rows in curves.groupby("checkpoint"):
        rate = best_row(rows.to_dict("records"))["head_learning_rate"]
        kept.append(rows[rows["head_learning_rate"] == rate])
    return pd.concat(kept, ignore_index=True)


def choose(probe: pd.DataFrame) -> pd.Series:
    """The row with the highest validation accuracy; of equal ones the latest checkpoint."""
    ordered = probe.sort_values(["val_accuracy", "checkpoint"])
    return ordered.iloc[-1]


def _probe_row(epoch: int, curve: list[dict[str, float]], images: int) -> dict[str, float]:
    best = best_row(curve)
    correct = round(best["val_accuracy"] * images)
    low, high = wilson_interval(correct, images)
    return {
        "checkpoint": epoch,
        "head_epoch": best["head_epoch"],
        "val_accuracy": best["val_accuracy"],
        "val_accuracy_low": low,
        "val_accuracy_high": high,
        "val_correct": correct,
        "val_images": images,
        "head_learning_rate": best["head_learning_rate"],
    }
