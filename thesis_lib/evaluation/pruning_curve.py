"""Accuracy, size and speed of a look-up table against its pruning threshold, and the choice."""

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from thesis_lib.data.statistics import imbalance
from thesis_lib.evaluation.comparison import LEVEL, compare
from thesis_lib.evaluation.lookup_table import LookupTable
from thesis_lib.evaluation.metrics import METRICS, classification_metrics

THRESHOLDS = tuple(step / 100 for step in range(80, 101))
FULL = 1.0  # the threshold that drops nothing
MARGIN = 0.005  # of accuracy, a fraction


def look_up(
    table: LookupTable, queries: np.ndarray, neighbours: int, own: np.ndarray | None = None
) -> dict[str, Any]:
    """Classify unit vectors (m, d) by the nearest images of a table.

    Args:
        table: to search.
        queries: unit vectors.
        neighbours: how many vote.
        own: see :meth:`thesis_lib.evaluation.lookup_table.LookupTable.search`.

    Returns:
        predicted (m,) labels; similarity (m,) and row (m,) of the nearest image; seconds, of
        search and vote alone.
    """
    # The first search builds the index and starts threads, which no image is to be charged with.
    some = slice(0, 16)
    table.search(queries[some], neighbours, None if own is None else own[some])
    began = time.perf_counter()
    similarity, rows = table.search(queries, neighbours, own)
    predicted = table.vote(rows)
    seconds = time.perf_counter() - began
    return {
        "predicted": predicted,
        "similarity": similarity[:, 0],
        "row": rows[:, 0],
        "seconds": seconds,
    }


def curve_row(
    table: LookupTable, threshold: float, split: str, true: np.ndarray, found: dict[str, Any]
) -> dict[str, Any]:
    """What ``retrieval.csv`` says of a table at a threshold.

    Args:
        table: as pruned.
        threshold: of the pruning.
        split: whose images were classified: val, test, or train by leave-one-out.
        true: (m,) their classes.
        found: what :func:`look_up` gave for them.
    """
    classes = len(table.classes)
    measured = classification_metrics(true, found["predicted"], range(classes))
    row = {"threshold": threshold, "split": split, "images": len(table)}
    for name in METRICS:
        low, high = measured[f"{name}_interval"]
        row |= {name: measured[name], f"{name}_low": low, f"{name}_high": high}
    counts = np.bincount(table.labels, minlength=classes)
    return row | {
        "n": measured["n"],
        "index_mib": table.mib,
        "seconds_per_image": found["seconds"] / len(true),
        **imbalance(counts),
    }


def pruning_curve(
    table: LookupTable,
    kept: np.ndarray,
    split: str,
    queries: np.ndarray,
    true: np.ndarray,
    neighbours: int,
    own: np.ndarray | None = None,
    thresholds: Iterable[float] = THRESHOLDS,
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The table at each threshold: a row each, and what :func:`look_up` gave there.

    Rows tell of the difference to the full table on the same images: difference (fraction), its
    paired 95 % interval, and p of the exact McNemar test.

    Args:
        table: of all training images.
        kept: (thresholds, n), in the order of ``thresholds``, the last of which is FULL.
        split, queries, true, neighbours: see :func:`curve_row` and :func:`look_up`.
        own: (m,) the row of ``table`` that each query is; None where they are other images.
        thresholds: ascending.
    """
    rows, all_found = [], []
    for threshold, holds in zip(thresholds, kept, strict=True):
        pruned = table.only(holds)
        numbers = np.where(holds, np.cumsum(holds) - 1, -1)  # of each image in the pruned table
        found = look_up(pruned, queries, neighbours, None if own is None else numbers[own])
        rows.append(curve_row(pruned, threshold, split, true, found))
        all_found.append(found)
    right = [found["predicted"] == true for found in all_found]
    for row, those in zip(rows, right, strict=True):
        pair = compare("the full table", f"the table at {row['threshold']:.2f}", right[-1], those)
        row |= {"difference": pair.difference, "difference_low": pair.low}
        row |= {"difference_high": pair.high, "p": pair.p}
    return pd.DataFrame(rows), all_found


def choose_threshold(curve: pd.DataFrame) -> float:
    """The threshold of the smallest table that is no worse than the full one, as far as is seen.

    Worse are tables that the paired test shows to be, and tables that measure worse by more than
    MARGIN: with few images the test shows nothing, and would let anything pass. Each table is
    tested at LEVEL, not adjusted for their number: with an adjustment fewer would be shown to be
    worse, and the choice be less careful. Of equally small tables the one with the highest
    threshold.
    """
    shown = (curve["p"] < LEVEL) & (curve["difference"] < 0)
    worse = shown | (curve["difference"] < -MARGIN)
    ordered = curve[~worse].sort_values(["images", "threshold"], ascending=[True, False])
    return float(ordered["threshold"].iloc[0])
