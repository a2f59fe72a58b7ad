"""Tabulate the metrics of subsets of the test images: by size, and by group."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from thesis_lib.evaluation.statistics import METRICS, metrics_by_group, metrics_by_size
from thesis_lib.reporting.tables.runs import percent, percent_with_interval

MOST_GROUPS = 20  # that the table shows


def size_table(predictions: pd.DataFrame, major_axes: Mapping[str, float]) -> pd.DataFrame:
    """Tabulate the metrics (%) of each size class; no rows if no size is known."""
    table = metrics_by_size(predictions, major_axes)
    if table.empty:
        return table
    limits = zip(table["from_mm"], table["to_mm"], strict=True)
    return _shown("major axis (mm)", [f"{low:g} to {high:g}" for low, high in limits], table)


def group_table(predictions: pd.DataFrame, groups: Mapping[str, str]) -> pd.DataFrame:
    """Tabulate the metrics (%) of the largest groups of test images; no rows without groups."""
    table = metrics_by_group(predictions, groups)[:MOST_GROUPS]
    return table if table.empty else _shown("group", table["group"], table)


def _shown(name: str, subsets: Any, table: pd.DataFrame) -> pd.DataFrame:
    columns = {name: subsets, "classes": table["classes"], "images": table["images"]}
    columns["accuracy"] = [
        percent_with_interval(row.accuracy, (row.accuracy_low, row.accuracy_high))
        for row in table.itertuples()
    ]
    return pd.DataFrame(columns | {metric: table[metric].map(percent) for metric in METRICS[1:]})
