"""Build, prune and test the look-up table of a run's training features (cosine retrieval)."""

import time
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd

from thesis_lib.errors import InputError
from thesis_lib.evaluation.features import FrozenBackbone, Labelled
from thesis_lib.evaluation.knn import LookupTable, unit_vectors
from thesis_lib.evaluation.learning_curve import measure_learning_curve
from thesis_lib.evaluation.lookup_table import StoredTable
from thesis_lib.evaluation.ood import measure_ood
from thesis_lib.evaluation.pruning import (
    THRESHOLDS,
    Queries,
    choose_threshold,
    curve_row,
    kept_images,
    pruning_curve,
    query_table,
)
from thesis_lib.evaluation.statistics.metrics import classification_metrics
from thesis_lib.runs.artifacts import read_retrieval, tested_before
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.plateau import kept_epochs
from thesis_lib.runs.provenance import recorded
from thesis_lib.runs.stages import inputs_digest, is_done, table_checkpoint, table_digest
from thesis_lib.system import distributed
from thesis_lib.system.files import read_json, write_csv, write_json
from thesis_lib.training.stage import Stage, open_stage, run_stage

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
    if not distributed.from_rank_0(lambda: is_done(run, "table")):
        inputs_digest(run, "table")  # raises if the run is not ready
        with open_stage("table", run, ("train",)) as stage:
            _make_table(stage)
    return StoredTable.load(run.table_file)


def retrieve(run: RunDirectory) -> dict[str, Any]:
    """Test the look-up table once, at its chosen threshold; make the table if it is missing.

    Writes ``retrieval_predictions.csv`` (path, true, predicted, similarity, nearest), the test
    row of ``retrieval.csv`` (with ``config.test_curve``, a row for every threshold) and, last,
    ``retrieval.json``. Returns at once if the same table was tested already.

    Returns:
        The content of ``retrieval.json``: the values of
        :func:`thesis_lib.evaluation.classification_metrics`; ``threshold``, ``images`` and
        ``index_mib`` of the table; and ``history``, the other tables tested before.

    Raises:
        InputError: see :func:`stored_table`.
    """
    inputs_digest(run, "table")  # raises if the run is not ready
    run_stage("retrieve", run, _retrieve)
    return read_json(run.retrieval_test_file)


def _retrieve(stage: Stage) -> None:
    if not distributed.from_rank_0(lambda: is_done(stage.run, "table")):
        with recorded(stage.run, "table") if distributed.rank() == 0 else nullcontext():
            _make_table(stage)
    _test(stage)


def _make_table(stage: Stage) -> None:
    """Extract the features of the table and, on rank 0, make it."""
    run, has_val = stage.run, len(stage.dataset.splits.get("val", ())) > 0
    if distributed.rank() == 0:
        run.table_choice_file.unlink(missing_ok=True)
        run.write_config()
    backbone, train = _load_backbone(run), stage.images("train")
    began = time.perf_counter()
    features = backbone.features(train)
    seconds = (time.perf_counter() - began) / len(train)
    val_features = backbone.features(stage.images("val")) if has_val else None
    if distributed.rank() == 0:
        val = val_features[0].numpy() if val_features is not None else None
        _choose(stage, features[0].numpy(), val, seconds)
    distributed.wait_for_all()


def _choose(stage: Stage, features: np.ndarray, val: np.ndarray | None, seconds: float) -> None:
    """Make the table, choose its threshold and measure OOD detection; write ``table.json`` last.

    Args:
        stage: the stage.
        features: of the training images, (n, d).
        val: features of the validation images, (m, d), if there are any.
        seconds: time that the features of an image took.
    """
    run, dataset = stage.run, stage.dataset
    train = dataset.splits["train"]
    table = LookupTable(unit_vectors(features), train.labels, train.files, dataset.classes)
    if run.config.neighbours > len(table):
        raise InputError(
            f"neighbours must be at most the {len(table):,} training images, "
            f"not {run.config.neighbours}"
        )
    kept = kept_images(table.vectors, table.labels, THRESHOLDS)
    rows = np.arange(len(table))
    if val is not None:
        queries = Queries("val", unit_vectors(val), dataset.splits["val"].labels)
        known, ood_queries = rows >= 0, Labelled(val, queries.labels)
    else:  # leave-one-out: each training image is classified by the others
        queries = Queries("train", table.vectors, train.labels, rows)
        known = rows % QUERY_SHARE > 0
        ood_queries = Labelled(features[~known], train.labels[~known])
    neighbours = run.config.neighbours
    curve, found = pruning_curve(table, kept, queries, neighbours)
    threshold = choose_threshold(curve)
    chosen = THRESHOLDS.index(threshold)
    heads = run.config.updated(head_learning_rates=(_head_learning_rate(run),))
    known_images = Labelled(features[known], train.labels[known])
    ood = measure_ood(
        known_images,
        kept[chosen][known],
        ood_queries,
        dataset.classes,
        heads,
    )
    curve_of_sizes = measure_learning_curve(known_images, ood_queries, len(dataset.classes), heads)
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
    write_csv(run.learning_curve_file, curve_of_sizes)
    row = curve.iloc[chosen]
    choice = {
        "checkpoint": table_checkpoint(run),
        "neighbours": neighbours,
        "threshold": threshold,
        "chosen_on": queries.split,
        "images": int(row["images"]),
        "of_images": len(table),
        "index_mib": float(row["index_mib"]),
        "accuracy": float(row["accuracy"]),
        "difference": float(row["difference"]),
        "difference_interval": [float(row["difference_low"]), float(row["difference_high"])],
        "p": float(row["p"]),
        "feature_seconds_per_image": seconds,
        "inputs": inputs_digest(run, "table"),
    }
    write_json(run.table_choice_file, choice)


def _head_learning_rate(run: RunDirectory) -> float:
    """Return the learning rate of the chosen linear head, or the first in the settings."""
    chosen = read_json(run.selection_file) if run.selection_file.is_file() else {}
    return chosen.get("head_learning_rate") or run.config.head_learning_rates[0]


def _load_backbone(run: RunDirectory) -> FrozenBackbone:
    epoch, kept = table_checkpoint(run), kept_epochs(run)
    if epoch not in kept:
        listed = ", ".join(map(str, kept)) or "none"
        raise InputError(f"{run.path.name} has no checkpoint of epoch {epoch}; it has {listed}")
    return FrozenBackbone.load(run, epoch)


def _test(stage: Stage) -> None:
    """Classify the test images with the chosen table, and with all if ``test_curve`` is set."""
    run, test = stage.run, stage.dataset.splits["test"]
    features = _load_backbone(run).features(stage.images("test"))
    if distributed.rank():
        return
    stored, choice = StoredTable.load(run.table_file), read_json(run.table_choice_file)
    history, table = _history(run), stored.chosen
    vectors = unit_vectors(features[0].numpy())
    if run.config.test_curve:
        queries = Queries("test", vectors, test.labels)
        rows, all_found = pruning_curve(stored.table, stored.kept, queries, stored.neighbours)
        found = all_found[stored.index_of(stored.threshold)]
    else:
        found = query_table(table, vectors, stored.neighbours)
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
        "skipped_images": stage.dataset.left_out("test"),
        "test_curve": run.config.test_curve,
        "table": table_digest(run),
        "history": history,
    }
    write_json(run.retrieval_test_file, result)


def _history(run: RunDirectory) -> list[dict[str, Any]]:
    """Return the other tables of the run that were tested before, oldest first."""
    if not run.retrieval_test_file.is_file():
        return []
    before = read_json(run.retrieval_test_file)
    names = ("table", "checkpoint", "neighbours", "threshold", "accuracy", "n")
    return tested_before(before, names, table_digest(run))
