"""Stage 2: a linear head on the frozen backbone of each checkpoint; selection on validation."""

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from thesis_lib import checkpoints
from thesis_lib.config import InputError, RunConfig
from thesis_lib.data import DataSet, open_dataset
from thesis_lib.data_statistics import DataStatistics, data_statistics, readable
from thesis_lib.evaluate import wilson_interval
from thesis_lib.failures import plain_words
from thesis_lib.features import extract_features, labels_of
from thesis_lib.files import sweep_partial, write_csv, write_json
from thesis_lib.hardware import choose_device
from thesis_lib.images import Images, open_images
from thesis_lib.locks import locked
from thesis_lib.models import linear_head
from thesis_lib.plateau import epochs_to_probe, run_plateau
from thesis_lib.pretrain import check_fingerprint
from thesis_lib.progress import track
from thesis_lib.runs import RunDirectory
from thesis_lib.stages import is_probed, probe_inputs, stage

MOMENTUM = 0.9


@torch.inference_mode()
def train_heads(
    train: Tensor,
    train_labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    classes: int,
    config: RunConfig,
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Train a linear head for each learning rate by SGD without weight decay, all in one pass.

    All heads start from the same weights and see the same batches; each is validated after
    every epoch. The gradient of a linear head is written out, which spares most of the time
    that a step would take.

    Args:
        train: (views, n, d) features; epoch e learns from view e modulo views. Moved to the
            device of the others a view at a time: all together may be more than it holds.
        train_labels: (n,) whole numbers.
        val: (m, d) features of the central views.
        val_labels: (m,).
        classes: how many.
        config: the ``head_*`` settings and the seed.

    Returns:
        The weights of the head and head epoch with the highest validation accuracy (see
        :func:`best_row`), and a row a head and epoch: head_epoch, train_loss,
        val_accuracy (a fraction), head_learning_rate.

    Raises:
        InputError: where no head's loss stays finite.
    """
    views, n, width = train.shape
    heads = len(config.head_learning_rates)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        first = linear_head(width, classes)
    weight = first.weight.detach().repeat(heads, 1).to(val)  # (heads * classes, d)
    bias = first.bias.detach().repeat(heads)[:, None].to(val)  # (heads * classes, 1)
    weight_momentum, bias_momentum = torch.zeros_like(weight), torch.zeros_like(bias)
    peaks = torch.tensor(config.head_learning_rates).repeat_interleave(classes)[:, None].to(val)
    minus_one = -torch.ones((), device=val.device)
    rows: list[dict[str, float]] = []
    best: dict[str, float] | None = None
    best_weights: dict[str, Tensor] = {}
    for epoch in range(1, config.head_epochs + 1):
        passed = sum(epoch > decay for decay in config.head_decay_epochs)
        rates = peaks * config.head_decay_rate**passed
        order = np.random.default_rng((config.seed, epoch)).permutation(n)
        order = torch.from_numpy(order).to(val.device)
        view = train[(epoch - 1) % views].to(val.device)
        loss_sums = torch.zeros(heads, device=val.device)
        for batch in order.split(config.head_batch_size):
            features = view.index_select(0, batch)
            labels = train_labels.index_select(0, batch).expand(heads, 1, -1)
            log_p = _logits(features, weight, bias, heads).log_softmax(1)
            loss_sums -= log_p.gather(1, labels).sum((1, 2))
            # The gradient of cross-entropy: its softmax less 1 for the class, times the features.
            error = log_p.exp_().scatter_add_(1, labels, minus_one.expand_as(labels)).flatten(0, 1)
            weight_momentum.addmm_(error, features, beta=MOMENTUM, alpha=1 / len(batch))
            bias_momentum.mul_(MOMENTUM).add_(error.mean(1, keepdim=True))
            weight.addcmul_(rates, weight_momentum, value=-1)
            bias.addcmul_(rates, bias_momentum, value=-1)
        predicted = _logits(val, weight, bias, heads).max(1).indices  # (heads, m)
        correct = (predicted == val_labels).sum(1).tolist()
        losses = (loss_sums / n).tolist()
        for head, rate in enumerate(config.head_learning_rates):
            row = {
                "head_epoch": epoch,
                "train_loss": losses[head],
                "val_accuracy": correct[head] / len(val_labels),
                "head_learning_rate": rate,
            }
            rows.append(row)
            if math.isfinite(losses[head]) and (best is None or best_row([best, row]) is row):
                best, own = row, slice(head * classes, (head + 1) * classes)
                chosen = {"weight": weight[own], "bias": bias[own, 0]}
                best_weights = {name: value.cpu().clone() for name, value in chosen.items()}
    if best is None:
        raise InputError(
            f"the linear head's loss is not finite with head_learning_rates "
            f"{list(config.head_learning_rates)}; lower them"
        )
    return best_weights, rows


def _logits(features: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    """All heads' logits by one product: (n, d) -> (heads, classes, n)."""
    return torch.addmm(bias, weight, features.T).unflatten(0, (heads, -1))


def best_row(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The row with the highest validation accuracy among those with a finite loss.

    Of equal ones the earliest head epoch, as the thesis's table has it, then the first listed.
    """
    sound = [row for row in rows if math.isfinite(row["train_loss"])]
    return max(sound, key=lambda row: (row["val_accuracy"], -row["head_epoch"]))


def probe_checkpoints(run: RunDirectory) -> pd.DataFrame:
    """Train heads for every checkpoint from the plateau on and choose one on validation.

    Reads the checkpoints, ``metrics.csv``, and the train and val images. Writes ``heads/``,
    ``probe.csv``, ``probe_curves.csv``, ``head.pth`` and, last, ``selection.json``. Returns at
    once where the selection was made with the same settings; goes on after the last finished
    checkpoint where a probing was cut short.

    Returns:
        A row a checkpoint: checkpoint (epoch), head_epoch, val_accuracy and its Wilson 95 %
        interval (fractions), val_correct, val_images, head_learning_rate.

    Raises:
        InputError: where the run is not trained to its end, or its data have changed.
    """
    inputs = probe_inputs(run)
    if is_probed(run):
        return pd.read_csv(run.probe_file)
    dataset = open_dataset(run.config.data, needs=("train", "val"))
    check_fingerprint(run, dataset)
    statistics = data_statistics(dataset)
    dataset = readable(dataset, statistics, run.config)
    batch = "the features of all images"
    with locked(run.path), plain_words(batch, run.config.worker_timeout):
        sweep_partial(run.path, older_than=0)
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
    with stage(run, "probe"):
        for epoch in track(epochs, len(epochs), "probing", "checkpoint"):
            head = _read_head(run.heads / f"head_{epoch:04d}.pth")
            if head.get("inputs") != inputs:
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
            rows.append(_probe_row(epoch, head["curve"], len(val)))
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
            "plateau": run_plateau(run),
            "probed": list(heads),
            "damaged_checkpoints": damaged,
            "inputs": inputs,
        }
        write_json(run.selection_file, selection)
    return probe


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
    train_features = extract_features(backbone, train, *common, views=run.config.head_views)
    val_features = extract_features(backbone, val, *common)[0]
    weights, curve = train_heads(
        train_features,
        labels_of(train.split).to(device),
        val_features.to(device),
        labels_of(val.split).to(device),
        len(dataset.classes),
        run.config,
    )
    return {
        "checkpoint": epoch,
        "classes": dataset.classes,
        "mean": facts["mean"],
        "std": facts["std"],
        "weights": weights,
        "curve": curve,
    }


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
