"""The rows and columns of the tables of look-up tables."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from thesis_lib.evaluation.comparison import compare_with_head
from thesis_lib.evaluation.metrics import METRICS
from thesis_lib.evaluation.retrieval import CHOSEN_ON
from thesis_lib.reporting.tables import metrics_row, percent, percent_with_interval
from thesis_lib.runs.artifacts import read_retrieval
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_retrieved
from thesis_lib.system.files import read_json


def retrieval_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """A row a run whose look-up table was tested: its test metrics in % with their intervals."""
    rows = []
    for run in runs:
        if is_retrieved(run):
            rows.append(metrics_row(run, read_json(run.retrieval_test_file)))
    return pd.DataFrame(rows)


def size_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """A row a run whose look-up table was tested: its threshold, size and speed.

    ``less head``: the table's accuracy less the linear head's on the same images, in points,
    with its paired 95 % interval and p of the exact McNemar test.
    """
    rows = []
    for run in runs:
        if is_retrieved(run):
            test, pair = read_json(run.retrieval_test_file), compare_with_head(run)
            row = {
                "run": run.path.name,
                "threshold": f"{test['threshold']:.2f}",
                "images": test["images"],
                "MiB": test["index_mib"],
                "ms an image": 1000 * test["seconds_per_image"],
                "less head": "",
            }
            if pair is not None:
                row["less head"] = _difference(pair.difference, pair.low, pair.high, pair.p)
            rows.append(row)
    return pd.DataFrame(rows)


def curve_table(run: RunDirectory, split: str) -> pd.DataFrame:
    """A row a threshold, the highest first: the table's size, speed, metrics in %, and imbalance.

    ``less full``: accuracy less the full table's, in points, with interval and p as above.

    Args:
        run: whose ``retrieval.csv`` is read.
        split: of its rows; without rows for the whole curve the table is empty.
    """
    curve = read_retrieval(run)
    curve = curve[(curve["split"] == split) & curve["p"].notna()]
    rows = []
    for point in curve.sort_values("threshold", ascending=False).to_dict("records"):
        row = {
            "threshold": f"{point['threshold']:.2f}",
            "images": point["images"],
            "MiB": point["index_mib"],
            "ms an image": 1000 * point["seconds_per_image"],
        }
        for name in METRICS:
            row[name] = percent_with_interval(
                point[name], (point[f"{name}_low"], point[f"{name}_high"])
            )
        bounds = point["difference_low"], point["difference_high"]
        row["less full"] = _difference(point["difference"], *bounds, point["p"])
        row |= {"Gini": point["gini"], "largest / smallest": point["imbalance_ratio"]}
        rows.append(row | {"evenness": point["evenness"]})
    return pd.DataFrame(rows)


def _difference(difference: float, low: float, high: float, p: float) -> str:
    told = "< 0.001" if p < 0.001 else f"= {p:.3f}"
    return f"{percent(difference)} ({percent(low)} to {percent(high)}), p {told}"


def choice_table(choice: dict[str, Any]) -> pd.DataFrame:
    """What ``table.json`` holds, for a reader: a row a fact."""
    low, high = choice["difference_interval"]
    difference = f"{100 * choice['difference']:.2f} ({100 * low:.2f} to {100 * high:.2f})"
    facts = {
        "checkpoint (epoch)": choice["checkpoint"],
        "neighbours that vote": choice["neighbours"],
        "pruning threshold": f"{choice['threshold']:.2f}",
        "chosen on": CHOSEN_ON[choice["chosen_on"]],
        "images kept": f"{choice['images']:,} of {choice['of_images']:,}",
        "size (MiB)": f"{choice['index_mib']:.1f}",
        "accuracy (%)": percent(choice["accuracy"]),
        "less the full table (points)": difference,
        "p (exact McNemar test)": f"{choice['p']:.3f}",
        "seconds per image for the features": f"{choice['feature_seconds_per_image']:.4f}",
    }
    return pd.DataFrame(facts.items(), columns=["look-up table", "value"])
