"""Build the display tables about the cosine look-up tables of runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from thesis_lib.evaluation.statistics import METRICS, compare_with_head
from thesis_lib.reporting.tables.runs import metrics_row, percent, percent_with_interval
from thesis_lib.runs.artifacts import read_retrieval
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import read_json

# Descriptions of the values of ``chosen_on`` in table.json.
CHOSEN_ON = {"val": "validation images", "train": "training images, leaving one out"}


def retrieval_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Tabulate the test metrics (%) with 95 % intervals, one row per tested look-up table."""
    rows = []
    for run in runs:
        if is_done(run, "retrieve"):
            rows.append(metrics_row(run, read_json(run.retrieval_test_file)))
    return pd.DataFrame(rows)


def size_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Tabulate threshold, size and speed, one row per tested look-up table.

    ``minus head (points)`` is the table's accuracy minus that of the linear head on the same
    test images, in percentage points, with the paired 95 % interval and the p value of the
    exact McNemar test. It is empty if the linear head was not tested.
    """
    rows = []
    for run in runs:
        if is_done(run, "retrieve"):
            test, pair = read_json(run.retrieval_test_file), compare_with_head(run)
            row = {
                "run": run.path.name,
                "threshold": f"{test['threshold']:.2f}",
                "images": test["images"],
                "MiB": test["index_mib"],
                "ms per image": 1000 * test["seconds_per_image"],
                "minus head (points)": "",
            }
            if pair is not None:
                bounds = pair.low, pair.high
                row["minus head (points)"] = _difference(pair.difference, *bounds, pair.p)
            rows.append(row)
    return pd.DataFrame(rows)


def curve_table(run: RunDirectory, split: str) -> pd.DataFrame:
    """Tabulate size, speed, metrics (%) and class imbalance, one row per pruning threshold.

    The highest threshold comes first. ``minus full table (points)`` is the accuracy minus that
    of the unpruned table, in percentage points, with the paired 95 % interval and the p value of
    the exact McNemar test.

    Args:
        run: the run whose ``retrieval.csv`` is read.
        split: the split whose rows are used; if only one threshold was evaluated on it, the
            table is empty.
    """
    curve = read_retrieval(run)
    curve = curve[(curve["split"] == split) & curve["p"].notna()]
    rows = []
    for point in curve.sort_values("threshold", ascending=False).to_dict("records"):
        row = {
            "threshold": f"{point['threshold']:.2f}",
            "images": point["images"],
            "MiB": point["index_mib"],
            "ms per image": 1000 * point["seconds_per_image"],
        }
        for name in METRICS:
            row[name] = percent_with_interval(
                point[name], (point[f"{name}_low"], point[f"{name}_high"])
            )
        bounds = point["difference_low"], point["difference_high"]
        row["minus full table (points)"] = _difference(point["difference"], *bounds, point["p"])
        row |= {"Gini": point["gini"], "largest / smallest": point["imbalance_ratio"]}
        rows.append(row | {"evenness": point["evenness"]})
    return pd.DataFrame(rows)


def learning_table(curve: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the head's metrics (%) against the number of labelled images, one row for each.

    curve: as returned by :func:`thesis_lib.runs.artifacts.read_learning_curve`.
    """
    if curve.empty:
        return curve
    table = curve[["images_per_class", "images", "draws"]].rename(
        columns={"images_per_class": "images per class"}
    )
    for name in ("accuracy", "f1"):
        limits = zip(curve[name], curve[f"{name}_low"], curve[f"{name}_high"], strict=True)
        table[name] = [percent_with_interval(value, (low, high)) for value, low, high in limits]
    return table


def learning_sentence(curve: pd.DataFrame) -> str:
    """Say how much the last step of the learning curve gained."""
    if len(curve) < 2:
        return "There are too few images for a learning curve."
    before, after = curve.iloc[-2], curve.iloc[-1]
    gains = [100 * (after[name] - before[name]) for name in ("accuracy", "f1")]
    return (
        f"From {before['images']:,.0f} to {after['images']:,.0f} labelled images, accuracy changed "
        f"by {gains[0]:+.2f} and macro F1 by {gains[1]:+.2f} points."
    )


def _difference(difference: float, low: float, high: float, p: float) -> str:
    """Format a difference in percentage points with its interval and p value."""
    p_value = "< 0.001" if p < 0.001 else f"= {p:.3f}"
    return f"{percent(difference)} ({percent(low)} to {percent(high)}), p {p_value}"


def choice_table(choice: dict[str, Any]) -> pd.DataFrame:
    """Show the content of ``table.json`` as a table, one row per property."""
    low, high = choice["difference_interval"]
    difference = f"{100 * choice['difference']:.2f} ({100 * low:.2f} to {100 * high:.2f})"
    facts = {
        "checkpoint (epoch)": choice["checkpoint"],
        "neighbours (k)": choice["neighbours"],
        "pruning threshold": f"{choice['threshold']:.2f}",
        "chosen on": CHOSEN_ON[choice["chosen_on"]],
        "images kept": f"{choice['images']:,} of {choice['of_images']:,}",
        "size (MiB)": f"{choice['index_mib']:.1f}",
        "accuracy (%)": percent(choice["accuracy"]),
        "minus full table (points)": difference,
        "p (exact McNemar test)": f"{choice['p']:.3f}",
        "feature extraction (s per image)": f"{choice['feature_seconds_per_image']:.4f}",
    }
    return pd.DataFrame(facts.items(), columns=["look-up table", "value"])


def misleading(predictions: pd.DataFrame) -> pd.DataFrame:
    """Select test images whose nearest image in the table has another class, most similar first.

    Args:
        predictions: as returned by :func:`thesis_lib.runs.artifacts.read_retrieval_predictions`.

    Returns:
        Columns path, true, nearest, nearest_class, similarity.
    """
    classes = predictions["nearest"].map(lambda file: Path(file).parent.name)
    wrong = predictions.assign(nearest_class=classes)[classes != predictions["true"]]
    wrong = wrong.sort_values("similarity", ascending=False, kind="stable")
    return wrong[["path", "true", "nearest", "nearest_class", "similarity"]].reset_index(drop=True)
