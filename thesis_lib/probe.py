"""Stage 2: a linear head on the frozen backbone of each checkpoint; selection on validation."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from thesis_lib import checkpoints
from thesis_lib.config import RunConfig
from thesis_lib.data import open_dataset
from thesis_lib.evaluate import wilson_interval
from thesis_lib.features import extract_features, labels_of
from thesis_lib.models import linear_head
from thesis_lib.pretrain import check_fingerprint, choose_device, epochs_to_probe, run_plateau
from thesis_lib.progress import track
from thesis_lib.runs import RunDirectory, write_csv, write_json
from thesis_lib.stages import is_probed, probe_inputs, stage


def train_head(
    train: Tensor,
    train_labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    classes: int,
    config: RunConfig,
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Train a linear head by SGD without weight decay; validate after every epoch.

    Args:
        train: (views, n, d) features; epoch e learns from view e modulo views.
        train_labels: (n,) whole numbers.
        val: (m, d) features of the central views.
        val_labels: (m,).
        classes: how many.
        config: the ``head_*`` settings and the seed.

    Returns:
        The weights of the head epoch with the highest validation accuracy (the first of equal
        ones), and a row an epoch: head_epoch, train_loss, val_accuracy (a fraction).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = linear_head(train.shape[-1], classes).to(train.device)
    optimizer = torch.optim.SGD(head.parameters(), lr=config.head_learning_rate, momentum=0.9)
    views, n, _ = train.shape
    curve: list[dict[str, float]] = []
    best_weights, best_accuracy = {}, -1.0
    for epoch in range(1, config.head_epochs + 1):
        passed = sum(epoch > decay for decay in config.head_decay_epochs)
        for group in optimizer.param_groups:
            group["lr"] = config.head_learning_rate * config.head_decay_rate**passed
        order = np.random.default_rng((config.seed, epoch)).permutation(n)
        order = torch.from_numpy(order).to(train.device)
        features = train[(epoch - 1) % views]
        loss_sum = torch.zeros((), device=train.device)
        for batch in order.split(config.head_batch_size):
            loss = torch.nn.functional.cross_entropy(head(features[batch]), train_labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(batch)
        with torch.inference_mode():
            correct = (head(val).argmax(1) == val_labels).sum().item()
        accuracy = correct / len(val_labels)
        curve.append(
            {"head_epoch": epoch, "train_loss": loss_sum.item() / n, "val_accuracy": accuracy}
        )
        if accuracy > best_accuracy:
            best_accuracy = accuracy
            best_weights = {name: w.detach().cpu().clone() for name, w in head.state_dict().items()}
    return best_weights, curve


def probe_checkpoints(run: RunDirectory) -> pd.DataFrame:
    """Train a head for every checkpoint from the plateau on and choose one on validation.

    Reads the checkpoints, ``metrics.csv``, and the train and val images. Writes ``heads/``,
    ``probe.csv``, ``probe_curves.csv``, ``head.pth`` and, last, ``selection.json``. Returns at
    once where the selection was made with the same settings; goes on after the last finished
    checkpoint where a probing was cut short.

    Returns:
        A row a checkpoint: checkpoint (epoch), head_epoch, val_accuracy and its Wilson 95 %
        interval (fractions), val_correct, val_images.

    Raises:
        InputError: where the run is not trained to its end, or its data have changed.
    """
    inputs = probe_inputs(run)
    if is_probed(run):
        return pd.read_csv(run.probe_file)
    dataset = open_dataset(run.config.data, needs=("train", "val"))
    check_fingerprint(run, dataset)
    device = choose_device(run.config)
    train, val = dataset.splits["train"], dataset.splits["val"]
    train_labels, val_labels = labels_of(train).to(device), labels_of(val).to(device)
    epochs = epochs_to_probe(run)
    for file in (run.selection_file, run.test_file):
        file.unlink(missing_ok=True)  # what follows from another choice is no result of this one
    run.write_config()

    rows, curves, heads = [], [], {}
    with stage(run, "probe"):
        for epoch in track(epochs, len(epochs), "probing", "checkpoint"):
            head_file = run.heads / f"head_{epoch:04d}.pth"
            head = checkpoints.load(head_file) if head_file.is_file() else {}
            if head.get("inputs") != inputs:
                path = checkpoints.checkpoint_path(run, epoch)
                backbone, facts = checkpoints.load_backbone(path)
                common = (run.config, facts["mean"], facts["std"], device)
                views = run.config.head_views
                train_features = extract_features(backbone, train, *common, views=views)
                val_features = extract_features(backbone, val, *common)[0]
                weights, curve = train_head(
                    train_features.to(device),
                    train_labels,
                    val_features.to(device),
                    val_labels,
                    len(dataset.classes),
                    run.config,
                )
                head = {
                    "inputs": inputs,
                    "checkpoint": epoch,
                    "classes": dataset.classes,
                    "mean": facts["mean"],
                    "std": facts["std"],
                    "weights": weights,
                    "curve": curve,
                }
                checkpoints.save(head_file, head)
            heads[epoch] = head
            curves += [{"checkpoint": epoch, **row} for row in head["curve"]]
            rows.append(_probe_row(epoch, head["curve"], len(val)))
            write_csv(run.probe_curves_file, pd.DataFrame(curves))
            write_csv(run.probe_file, pd.DataFrame(rows))

        probe = pd.DataFrame(rows)
        chosen = choose(probe)
        head = heads[int(chosen["checkpoint"])]
        checkpoints.save(run.head_file, head | {"head_epoch": int(chosen["head_epoch"])})
        selection = {
            "checkpoint": int(chosen["checkpoint"]),
            "head_epoch": int(chosen["head_epoch"]),
            "val_accuracy": float(chosen["val_accuracy"]),
            "val_accuracy_interval": [
                float(chosen["val_accuracy_low"]),
                float(chosen["val_accuracy_high"]),
            ],
            "val_images": len(val),
            "plateau": run_plateau(run),
            "probed": epochs,
            "inputs": inputs,
        }
        write_json(run.selection_file, selection)
    return probe


def choose(probe: pd.DataFrame) -> pd.Series:
    """The row with the highest validation accuracy; of equal ones the latest checkpoint."""
    ordered = probe.sort_values(["val_accuracy", "checkpoint"])
    return ordered.iloc[-1]


def _probe_row(epoch: int, curve: list[dict[str, float]], images: int) -> dict[str, float]:
    best = max(curve, key=lambda row: row["val_accuracy"])  # the first of equal ones
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
    }
