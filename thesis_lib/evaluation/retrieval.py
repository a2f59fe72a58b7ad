"""Build, prune and test the look-up table of a run's training features (cosine retrieval)."""

import time
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from thesis_lib.data.cache import open_images
from thesis_lib.data.datasets import DataSet
from thesis_lib.data.statistics import DataStatistics
from thesis_lib.errors import InputError
from thesis_lib.evaluation.features import extract_features
from thesis_lib.evaluation.knn import LookupTable, unit_vectors
from thesis_lib.evaluation.lookup_table import StoredTable
from thesis_lib.evaluation.metrics import classification_metrics
from thesis_lib.evaluation.ood import measure_ood
from thesis_lib.evaluation.pruning import (
    THRESHOLDS,
    choose_threshold,
    curve_row,
    kept_images,
    pruning_curve,
    query_table,
)
from thesis_lib.runs.artifacts import (
    read_retrieval,
    tested_before,
)
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.provenance import stage
from thesis_lib.runs.stages import (
    is_retrieved,
    is_table_made,
    table_checkpoint,
    table_digest,
    table_inputs,
)
from thesis_lib.system import distributed
from thesis_lib.system.device import choose_device
from thesis_lib.system.files import read_json, write_csv, write_json
from thesis_lib.training import checkpoints
from thesis_lib.training.launcher import run_under_torchrun
from thesis_lib.training.stage import run_data

# Descriptions of the values of ``chosen_on`` in table.json.
CHOSEN_ON = {"val": "validation images", "train": "training images, leaving one out"}
QUERY_SHARE = 5  # without val/, every fifth training image is a query image for OOD detection


def stored_table(run: RunDirectory) -> StoredTable:
    """Return the run's look-up table with its chosen pruning threshold; make it if missing.

    Reads the checkpoint (the chosen one, or ``config.table_checkpoint``) and the train and val
    images, but never the test images. Writes ``table.safetensors``, ``retrieval.csv`` (one row
    per threshold), ``ood.csv`` and, last, ``table.json``.

    Raises:
        InputError: if no checkpoint has been selected yet, the checkpoint is missing, or the
            data have changed.
    """
    if not is_table_made(run):
        table_inputs(run)  # raises if the run is not ready
        with (
            run_data(run, ("train",)) as (dataset, statistics),
            stage(run, "retrieve"),
            distributed.report_worker_errors(),
        ):
            _make_table(run, dataset, statistics)
    return StoredTable.load(run.table_file)


def retrieve(run: RunDirectory) -> dict[str, Any]:
    """Test the look-up table once, at its chosen threshold; make the table if it is missing.

    Writes ``retrieval_predictions.csv`` (path, true, predicted, similarity, nearest), the test
    row of ``retrieval.csv`` (with ``config.test_curve``, a row for every threshold) and, last,
    ``retrieval.json``. Returns at once if the same table was tested already.

    Returns:
        The content of ``retrieval.json``: the values of
        :func:`thesis_lib.evaluation.metrics.classification_metrics`; ``threshold``, ``images``
        and ``index_mib`` of the table; and ``history``, the other tables tested before.

    Raises:
        InputError: see :func:`stored_table`.
    """
    table_inputs(run)  # raises if the run is not ready
    if is_retrieved(run) or run_under_torchrun("retrieve", run):
        return read_json(run.retrieval_test_file)
    with (
        run_data(run, ("train", "test")) as (dataset, statistics),
        stage(run, "retrieve"),
        distributed.report_worker_errors(),
    ):
        if not is_table_made(run):
            _make_table(run, dataset, statistics)
        return _test(run, dataset, statistics)


def _make_table(run: RunDirectory, dataset: DataSet, statistics: DataStatistics) -> None:
    """Make the table, choose its threshold and measure OOD detection; write ``table.json`` last."""
    run.table_choice_file.unlink(missing_ok=True)
    run.write_config()
    backbone, facts = _load_backbone(run)
    train = dataset.splits["train"]
    features, seconds = _features(run, backbone, facts, dataset, "train", statistics)
    table = LookupTable(unit_vectors(features), train.labels, train.files, dataset.classes)
    if run.config.neighbours > len(table):
        raise InputError(
            f"neighbours must be at most the {len(table):,} training images, "
            f"not {run.config.neighbours}"
        )
    kept = kept_images(table.vectors, table.labels, THRESHOLDS)
    if len(dataset.splits.get("val", ())):
        split, true, exclude = "val", dataset.splits["val"].labels, None
        ood_queries = _features(run, backbone, facts, dataset, "val", statistics)[0]
        known, ood_labels = np.ones(len(table), dtype=bool), true
    else:  # leave-one-out: each training image is classified by the others
        split, true, exclude = "train", train.labels, np.arange(len(table))
        known = exclude % QUERY_SHARE > 0
        ood_queries, ood_labels = features[~known], true[~known]
    queries = table.vectors if exclude is not None else unit_vectors(ood_queries)
    neighbours = run.config.neighbours
    curve, found = pruning_curve(table, kept, split, queries, true, neighbours, exclude)
    threshold = choose_threshold(curve)
    chosen = THRESHOLDS.index(threshold)
    ood = measure_ood(
        features[known],
        train.labels[known],
        kept[chosen][known],
        ood_queries,
        ood_labels,
        dataset.classes,
        run.config.updated(head_learning_rates=(_head_learning_rate(run),)),
    )
    StoredTable(
        table,
        np.array(THRESHOLDS),
        kept,
        threshold,
        neighbours,
        np.sort(found[chosen]["similarity"]),
        table_checkpoint(run),
        dataset.fingerprint,
    ).save(run.table_file)
    write_csv(run.retrieval_file, curve)
    write_csv(run.ood_file, ood)
    row = curve.iloc[chosen]
    choice = {
        "checkpoint": table_checkpoint(run),
        "neighbours": neighbours,
        "threshold": threshold,
        "chosen_on": split,
        "images": int(row["images"]),
        "of_images": len(table),
        "index_mib": float(row["index_mib"]),
        "accuracy": float(row["accuracy"]),
        "difference": float(row["difference"]),
        "difference_interval": [float(row["difference_low"]), float(row["difference_high"])],
        "p": float(row["p"]),
        "feature_seconds_per_image": seconds / len(table),
        "inputs": table_inputs(run),
    }
    write_json(run.table_choice_file, choice)


def _head_learning_rate(run: RunDirectory) -> float:
    """Return the learning rate of the chosen head, or the first in the settings if none is."""
    if run.selection_file.is_file():
        return read_json(run.selection_file)["head_learning_rate"]
    return run.config.head_learning_rates[0]


def _load_backbone(run: RunDirectory) -> tuple[nn.Module, dict[str, Any]]:
    epoch, kept = table_checkpoint(run), checkpoints.kept_epochs(run)
    if epoch not in kept:
        listed = ", ".join(map(str, kept)) or "none"
        raise InputError(f"{run.path.name} has no checkpoint of epoch {epoch}; it has {listed}")
    return checkpoints.load_backbone(checkpoints.checkpoint_path(run, epoch))


def _features(  # noqa: PLR0913
    run: RunDirectory,
    backbone: nn.Module,
    facts: dict[str, Any],
    dataset: DataSet,
    split: str,
    statistics: DataStatistics,
) -> tuple[np.ndarray, float]:
    """Return the features (n, d) of a split's center crops, and the seconds this took."""
    images, _ = open_images(dataset, split, statistics, run.config)
    began = time.perf_counter()
    device = choose_device(run.config)
    features = extract_features(backbone, images, run.config, facts["mean"], facts["std"], device)
    return features[0].numpy(), time.perf_counter() - began


def _test(run: RunDirectory, dataset: DataSet, statistics: DataStatistics) -> dict[str, Any]:
    """Classify the test images with the chosen table, and with all if ``test_curve`` is set."""
    stored, choice = StoredTable.load(run.table_file), read_json(run.table_choice_file)
    history = _history(run)
    backbone, facts = _load_backbone(run)
    test, table = dataset.splits["test"], stored.chosen
    queries = unit_vectors(_features(run, backbone, facts, dataset, "test", statistics)[0])
    if run.config.test_curve:
        common = ("test", queries, test.labels, stored.neighbours)
        rows, all_found = pruning_curve(stored.table, stored.kept, *common)
        found = all_found[stored.index_of(stored.threshold)]
    else:
        found = query_table(table, queries, stored.neighbours)
        rows = pd.DataFrame([curve_row(table, stored.threshold, "test", test.labels, found)])
    curve = read_retrieval(run)
    curve = pd.concat([curve[curve["split"] != "test"], rows], ignore_index=True)

    classes = np.array(table.classes)
    predictions = pd.DataFrame(
        {
            "path": test.files,
            "true": classes[test.labels],
            "predicted": classes[found["predicted"]],
            "similarity": found["similarity"].round(6),
            "nearest": [table.files[row] for row in found["row"]],
        }
    )
    write_csv(run.retrieval_predictions_file, predictions)
    write_csv(run.retrieval_file, curve)
    result = classification_metrics(predictions["true"], predictions["predicted"], table.classes)
    result |= {
        "checkpoint": choice["checkpoint"],
        "neighbours": stored.neighbours,
        "threshold": stored.threshold,
        "images": len(table),
        "index_mib": table.mib,
        "seconds_per_image": found["seconds"] / len(test),
        "classes": table.classes,
        "skipped_images": dataset.left_out("test"),
        "test_curve": run.config.test_curve,
        "table": table_digest(run),
        "history": history,
    }
    write_json(run.retrieval_test_file, result)
    return result


def _history(run: RunDirectory) -> list[dict[str, Any]]:
    """Return the other tables of the run that were tested before, oldest first."""
    if not run.retrieval_test_file.is_file():
        return []
    before = read_json(run.retrieval_test_file)
    names = ("table", "checkpoint", "neighbours", "threshold", "accuracy", "n")
    return tested_before(before, names, table_digest(run))
