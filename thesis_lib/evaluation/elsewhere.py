"""Test a finished run on another labelled data set, such as another cruise or instrument."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from thesis_lib.data.cache import Images
from thesis_lib.data.datasets import DataSet, Split, open_dataset
from thesis_lib.data.statistics import data_statistics, readable
from thesis_lib.errors import InputError
from thesis_lib.evaluation.features import FrozenBackbone
from thesis_lib.evaluation.statistics.metrics import METRICS
from thesis_lib.evaluation.statistics.strata import metrics_of_groups
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_done, selection_digest
from thesis_lib.system import distributed
from thesis_lib.system.files import file_digest, write_csv, write_json
from thesis_lib.system.locks import locked
from thesis_lib.system.paths import find_data, relative_to_root
from thesis_lib.system.torch_errors import translate_torch_errors
from thesis_lib.training.checkpoints import load_classifier

TRAINED_ON = ("train", "val")


def judge_elsewhere(run: RunDirectory, data: str) -> dict[str, Any]:
    """Classify all images of another data set with the selected checkpoint and head.

    Classes are matched by name. Left out, and counted, are images of classes that the run does not
    know, and files that are the same as in the run's own train or val, byte by byte.

    Writes ``elsewhere/<data>.json`` and ``elsewhere/<data>.csv`` (path, true, predicted,
    confidence) in the run's folder, which no other stage reads.

    Args:
        run: a run with a selection.
        data: the other data set, in the form ``<data>/{train,val,test}/<class>/<image>``.

    Returns:
        The content of the JSON file: the metrics over the classes that occur there with their 95 %
        intervals (fractions), n (images) and classes (their number); unknown_classes (name ->
        images), seen_before (images left out), and skipped_images (unreadable).

    Raises:
        InputError: if the run was not probed, the data set is the run's own or cannot be read, or
            no image is left.
    """
    if not is_done(run, "probe"):
        raise InputError(
            f"{run.path.name} was not probed with these settings; first run notebook 03 or "
            f"`thesis probe {run.path.name}`"
        )
    dataset = open_dataset(data)
    if dataset.root.resolve() == find_data(run.config.data).resolve():
        raise InputError(f"{data} is the run's own data set; leave out --data to test on it")
    dataset = readable(
        dataset, distributed.from_rank_0(lambda: data_statistics(dataset)), run.config
    )
    classifier, head = load_classifier(run)
    own = _files_trained_on(find_data(run.config.data))
    split, unknown, seen = _usable(dataset, head["classes"], own)
    if not len(split):
        raise InputError(
            f"{data} has no image to test {run.path.name} on: {sum(unknown.values()):,} are of "
            f"{len(unknown)} classes that it does not know, and it was trained on {seen:,}"
        )
    backbone = FrozenBackbone(classifier.backbone, head["mean"], head["std"], run.config)
    with translate_torch_errors("the features of all images", run.config.worker_timeout):
        features = backbone.features(Images(split))[0]
        with torch.inference_mode():
            logits = classifier.head(features)
    predictions = _predictions(split, head["classes"], logits / head["temperature"])
    left_out = sum(len(dataset.left_out(name)) for name in dataset.splits)
    result = {
        "data": relative_to_root(dataset.root),
        "data_fingerprint": dataset.fingerprint,
        **_metrics(predictions, head["classes"]),
        "unknown_classes": dict(unknown),
        "seen_before": seen,
        "skipped_images": left_out,
        "checkpoint": head["checkpoint"],
        "head_epoch": head["head_epoch"],
        "selection": selection_digest(run),
    }
    if distributed.rank() == 0:
        with locked(run.path):
            run.elsewhere.mkdir(exist_ok=True)
            write_csv(run.elsewhere / f"{dataset.name}.csv", predictions)
            write_json(run.elsewhere / f"{dataset.name}.json", result)
    return result


def _files_trained_on(root: Path) -> set[str | None]:
    """Return the hashes of a data set's train and val files; none if it is gone, and say so."""
    if not root.is_dir():
        print(f"-- {root} is gone, so images that the run was trained on are not left out")
        return set()
    files = (file for name in TRAINED_ON for file in (root / name).rglob("*") if file.is_file())
    return {file_digest(file) for file in files}


def _usable(
    dataset: DataSet, classes: list[str], own: set[str | None]
) -> tuple[Split, Counter[str], int]:
    """Return the images to test on, the images of each unknown class, and those trained on."""
    files, labels, unknown, seen = [], [], Counter[str](), 0
    for split in dataset.splits.values():
        for file, label in zip(split.files, split.labels, strict=True):
            name = dataset.classes[label]
            if name not in classes:
                unknown[name] += 1
            elif own and file_digest(dataset.root / file) in own:
                seen += 1
            else:
                files.append(file)
                labels.append(classes.index(name))
    return Split(dataset.root, files, np.array(labels, int), dataset.crop_bottom), unknown, seen


def _predictions(split: Split, classes: list[str], logits: torch.Tensor) -> pd.DataFrame:
    confidence, predicted = logits.double().softmax(1).max(1)
    names = np.array(classes)
    table = {"path": split.files, "true": names[split.labels], "predicted": names[predicted]}
    return pd.DataFrame(table | {"confidence": confidence.numpy().round(6)})


def _metrics(predictions: pd.DataFrame, classes: list[str]) -> dict[str, Any]:
    """Return the metrics over the classes that have images."""
    present = set(predictions["true"])
    groups = {name: "present" if name in present else "absent" for name in classes}
    true, predicted = predictions["true"], predictions["predicted"]
    (row,) = metrics_of_groups(true, predicted, groups, ["present"]).to_dict("records")
    found = {name: row[name] for name in METRICS}
    found |= {f"{name}_interval": [row[f"{name}_low"], row[f"{name}_high"]] for name in METRICS}
    return found | {"n": len(predictions), "classes": row["classes"]}
