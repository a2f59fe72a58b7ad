"""Cosine retrieval: a look-up table of a run's training features, pruned, chosen, tested once."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from thesis_lib.config import InputError
from thesis_lib.data.cache import open_images
from thesis_lib.data.datasets import DataSet
from thesis_lib.data.statistics import DataStatistics
from thesis_lib.evaluation.comparison import Comparison, compare
from thesis_lib.evaluation.features import extract_features
from thesis_lib.evaluation.knn import unit_vectors
from thesis_lib.evaluation.lookup_table import LookupTable, StoredTable
from thesis_lib.evaluation.metrics import classification_metrics
from thesis_lib.evaluation.novelty import measure_novelty
from thesis_lib.evaluation.pruning import kept_images
from thesis_lib.evaluation.pruning_curve import (
    THRESHOLDS,
    choose_threshold,
    curve_row,
    look_up,
    pruning_curve,
)
from thesis_lib.evaluation.testing import read_predictions, read_texts, tested_before
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import (
    is_retrieved,
    is_table_made,
    is_tested,
    stage,
    table_checkpoint,
    table_digest,
    table_inputs,
)
from thesis_lib.system import distributed
from thesis_lib.system.device import choose_device
from thesis_lib.system.files import read_json, write_csv, write_json
from thesis_lib.training import checkpoints
from thesis_lib.training.launcher import share_out
from thesis_lib.training.stage import run_data

# What the threshold was chosen on, by ``chosen_on`` of table.json.
CHOSEN_ON = {"val": "validation images", "train": "training images, leaving one out"}
QUERY_SHARE = 5  # without val/: every fifth training image asks how novelty is found


def stored_table(run: RunDirectory) -> StoredTable:
    """The run's look-up table, with the pruning threshold that was chosen; made where missing.

    Reads the checkpoint (the chosen one, or ``config.table_checkpoint``), and the train and val
    images; never the test images. Writes ``table.safetensors``, ``retrieval.csv`` (a row a
    threshold), ``novelty.csv`` and, last, ``table.json``.

    Raises:
        InputError: where nothing has been selected yet, the checkpoint is not there, or the
            data have changed.
    """
    if not is_table_made(run):
        table_inputs(run)  # raises where there is nothing to go by
        with (
            run_data(run, ("train",)) as (dataset, statistics),
            stage(run, "retrieve"),
            distributed.others_heeded(),
        ):
            _make_table(run, dataset, statistics)
    return StoredTable.load(run.table_file)


def retrieve(run: RunDirectory) -> dict[str, Any]:
    """Make the look-up table where it is missing, and test it once, at the chosen threshold.

    Writes ``retrieval_predictions.csv`` (path, true, predicted, similarity, nearest), the test's
    row of ``retrieval.csv`` (with ``config.test_curve`` a row for every threshold) and, last,
    ``retrieval.json``. Returns at once where they are of the same table.

    Returns:
        The content of ``retrieval.json``: see
        :func:`thesis_lib.evaluation.metrics.classification_metrics`; ``threshold``, ``images`` and
        ``index_mib`` of the table, and ``history``: what other tables were tested before.

    Raises:
        InputError: see :func:`stored_table`.
    """
    table_inputs(run)  # raises where there is nothing to go by
    if is_retrieved(run) or share_out("retrieve", run):
        return read_json(run.retrieval_test_file)
    with (
        run_data(run, ("train", "test")) as (dataset, statistics),
        stage(run, "retrieve"),
        distributed.others_heeded(),
    ):
        if not is_table_made(run):
            _make_table(run, dataset, statistics)
        return _test(run, dataset, statistics)


def _make_table(run: RunDirectory, dataset: DataSet, statistics: DataStatistics) -> None:
    """Features, pruning, curve, choice and novelty; ``table.json`` says last that all is there."""
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
        split, true, own = "val", dataset.splits["val"].labels, None
        asking = _features(run, backbone, facts, dataset, "val", statistics)[0]
        known, asking_labels = np.ones(len(table), dtype=bool), true
    else:  # each training image asks the others
        split, true, own = "train", train.labels, np.arange(len(table))
        known = own % QUERY_SHARE > 0
        asking, asking_labels = features[~known], true[~known]
    queries = table.vectors if own is not None else unit_vectors(asking)
    neighbours = run.config.neighbours
    curve, found = pruning_curve(table, kept, split, queries, true, neighbours, own)
    threshold = choose_threshold(curve)
    chosen = THRESHOLDS.index(threshold)
    novelty = measure_novelty(
        features[known],
        train.labels[known],
        kept[chosen][known],
        asking,
        asking_labels,
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
    write_csv(run.novelty_file, novelty)
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
    """That of the chosen head; without a selection the first of the settings."""
    if run.selection_file.is_file():
        return read_json(run.selection_file)["head_learning_rate"]
    return run.config.head_learning_rates[0]


def _load_backbone(run: RunDirectory) -> tuple[nn.Module, dict[str, Any]]:
    epoch, kept = table_checkpoint(run), checkpoints.kept_epochs(run)
    if epoch not in kept:
        listed = ", ".join(map(str, kept)) or "none"
        raise InputError(f"{run.path.name} keeps no checkpoint of epoch {epoch}; it keeps {listed}")
    return checkpoints.load_backbone(checkpoints.checkpoint_path(run, epoch))


def _features(
    run: RunDirectory,
    backbone: nn.Module,
    facts: dict[str, Any],
    dataset: DataSet,
    split: str,
    statistics: DataStatistics,
) -> tuple[np.ndarray, float]:
    """Features (n, d) of the central views of a split, and the seconds that they took."""
    images, _ = open_images(dataset, split, statistics, run.config)
    began = time.perf_counter()
    device = choose_device(run.config)
    features = extract_features(backbone, images, run.config, facts["mean"], facts["std"], device)
    return features[0].numpy(), time.perf_counter() - began


def _test(run: RunDirectory, dataset: DataSet, statistics: DataStatistics) -> dict[str, Any]:
    """Look the test images up in the chosen table; all thresholds only where that was asked."""
    stored, choice = StoredTable.load(run.table_file), read_json(run.table_choice_file)
    history = _history(run)
    backbone, facts = _load_backbone(run)
    test, table = dataset.splits["test"], stored.chosen
    queries = unit_vectors(_features(run, backbone, facts, dataset, "test", statistics)[0])
    if run.config.test_curve:
        common = ("test", queries, test.labels, stored.neighbours)
        rows, all_found = pruning_curve(stored.table, stored.kept, *common)
        found = all_found[stored.number(stored.threshold)]
    else:
        found = look_up(table, queries, stored.neighbours)
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
    """What other tables of the run were tested before, oldest first."""
    if not run.retrieval_test_file.is_file():
        return []
    before = read_json(run.retrieval_test_file)
    names = ("table", "checkpoint", "neighbours", "threshold", "accuracy", "n")
    return tested_before(before, names, table_digest(run))


def read_retrieval(run: RunDirectory) -> pd.DataFrame:
    """``retrieval.csv``: a row a threshold and split."""
    return pd.read_csv(run.retrieval_file, float_precision="round_trip")


def read_retrieval_predictions(run: RunDirectory) -> pd.DataFrame:
    """``retrieval_predictions.csv``: a row a test image, with class names as text."""
    columns = ("path", "true", "predicted", "nearest")
    remedy = "remove it, and `thesis retrieve` makes it again"
    return read_texts(run.retrieval_predictions_file, columns, remedy)


def misleading(predictions: pd.DataFrame) -> pd.DataFrame:
    """Test images whose nearest image in the table is of another class, most similar first.

    Args:
        predictions: of :func:`read_retrieval_predictions`.

    Returns:
        path, true, nearest, nearest_class, similarity.
    """
    classes = predictions["nearest"].map(lambda file: Path(file).parent.name)
    wrong = predictions.assign(nearest_class=classes)[classes != predictions["true"]]
    wrong = wrong.sort_values("similarity", ascending=False, kind="stable")
    return wrong[["path", "true", "nearest", "nearest_class", "similarity"]].reset_index(drop=True)


def against_head(run: RunDirectory) -> Comparison | None:
    """The linear head and the look-up table on the same test images; None where one is missing."""
    if not (is_tested(run) and is_retrieved(run)):
        return None
    by_head = read_predictions(run).set_index("path")
    by_table = read_retrieval_predictions(run).set_index("path").loc[by_head.index]
    return compare(
        "the linear head",
        "the look-up table",
        (by_head["true"] == by_head["predicted"]).to_numpy(),
        (by_table["true"] == by_table["predicted"]).to_numpy(),
    )
