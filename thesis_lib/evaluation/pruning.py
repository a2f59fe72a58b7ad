"""Which images of a look-up table stay when near-copies within a class are dropped, exactly."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from thesis_lib.data.statistics import imbalance
from thesis_lib.evaluation.comparison import LEVEL, compare
from thesis_lib.evaluation.knn import LookupTable
from thesis_lib.evaluation.metrics import METRICS, classification_metrics

THRESHOLDS = tuple(step / 100 for step in range(80, 101))
FULL = 1.0  # the threshold that drops nothing
MARGIN = 0.005  # of accuracy, a fraction

ROWS_AT_ONCE = 256
MOST_THRESHOLDS = 31  # two bits for each in 64
CELLS = 2**16  # in which similarities are looked up, from 0 to 1: scaling by it rounds nothing
BEYOND = 64  # cells past 1 and -1, for vectors that rounding made longer than 1
SHIFT = CELLS + BEYOND  # the cell of similarity 0; none is negative


def kept_images(vectors: np.ndarray, labels: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """The images that pruning keeps at each threshold.

    Within each class, in the order of the rows, an image is kept, and every later one of its
    class whose cosine similarity to a kept one exceeds the threshold is dropped. As a cosine
    cannot exceed 1, nothing is dropped at a threshold of 1 or more, whatever rounding makes of
    the similarity of identical images.

    All thresholds take one pass over the float32 products of each block of images with the
    earlier ones that some threshold keeps. A product that rounding might have moved across a
    threshold is computed anew in float64, so the result is that of comparing every pair in
    float64.

    Args:
        vectors: (n, d) float32, of length 1.
        labels: (n,) the classes.
        thresholds: at most 31, in any order.

    Returns:
        (thresholds, n) bool, in the order of ``thresholds``.

    Raises:
        ValueError: for more than 31 thresholds.
    """
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if len(thresholds) > MOST_THRESHOLDS:
        raise ValueError(f"{len(thresholds)} thresholds; at most {MOST_THRESHOLDS} at once")
    below = thresholds < 1
    kept = np.ones((len(thresholds), len(labels)), dtype=bool)
    table = _bits_of_cells(thresholds[below], vectors.shape[1])
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        bits = _kept_of_class(vectors, rows, thresholds[below], table)
        kept[np.ix_(below, rows)] = bits >> np.arange(below.sum())[:, None] & 1
    return kept


def _bits_of_cells(thresholds: np.ndarray, d: int) -> torch.Tensor:
    """What a similarity says of each threshold, by the cell that its float32 value lies in.

    Bit t: it exceeds threshold t; bit 31 + t: it may or may not.
    """
    low = np.arange(-SHIFT, SHIFT)[:, None] / CELLS  # (cells, 1)
    high = low + 1 / CELLS
    # A float32 sum of d products of unit vectors errs by this at most, in whatever order it is
    # summed (Higham 2002, section 3.1); d + 4, as the shift rounds too.
    error = (d + 4) * 2.0**-24
    error /= 1 - error
    exceeds = low - error >= thresholds
    may_exceed = (high + error > thresholds) & ~exceeds
    bit = 1 << np.arange(len(thresholds))
    return torch.from_numpy((exceeds * bit).sum(1) | (may_exceed * bit).sum(1) << MOST_THRESHOLDS)


def _kept_of_class(
    vectors: np.ndarray, rows: np.ndarray, thresholds: np.ndarray, table: torch.Tensor
) -> np.ndarray:
    """For each of a class's rows the thresholds that keep it, as bits: (rows,) int64."""
    bit = 1 << np.arange(len(thresholds))
    every = int(bit.sum())
    kept = np.empty(len(rows), dtype=np.int64)
    # The earlier images that some threshold keeps, then the block: their vectors, and their bits
    # twice, as the table has them.
    own = np.empty((len(rows), vectors.shape[1]), dtype=np.float32)
    own_bits = np.zeros(len(rows), dtype=np.int64)
    earlier = 0
    for start in range(0, len(rows), ROWS_AT_ONCE):
        block = rows[start : start + ROWS_AT_ONCE]
        end = earlier + len(block)
        # The mode is for speed: by the default one, take fills a copy first.
        np.take(vectors, block, axis=0, out=own[earlier:end], mode="clip")
        columns, bits = torch.from_numpy(own[:end]), own_bits[:end]
        similarity = columns[earlier:] @ columns.T  # (block, end)
        cells = similarity.mul_(CELLS).add_(SHIFT).long()
        pairs = table.gather(0, cells.flatten()).view_as(cells).numpy()
        for image, says in enumerate(pairs, start=earlier):
            hits = says & bits  # (end,): itself and those after it have no bits yet
            found = int(np.bitwise_or.reduce(hits))
            if unsure := found >> MOST_THRESHOLDS & ~found:
                near = np.flatnonzero(hits >> MOST_THRESHOLDS & unsure)
                exact = (own[near].astype(np.float64) * own[image]).sum(1)
                exceeded = ((exact[:, None] > thresholds) * bit).sum(1)
                found |= int(np.bitwise_or.reduce(exceeded & bits[near]))
            left = every & ~found
            bits[image] = left | left << MOST_THRESHOLDS
        kept[start : start + len(block)] = bits[earlier:] & every
        staying = earlier + np.flatnonzero(bits[earlier:])
        if len(staying) < len(block):  # close the gaps
            stop = earlier + len(staying)
            own[earlier:stop], bits[earlier:stop], bits[stop:] = own[staying], bits[staying], 0
        earlier += len(staying)
    return kept


def query_table(
    table: LookupTable, queries: np.ndarray, neighbours: int, exclude: np.ndarray | None = None
) -> dict[str, Any]:
    """Classify unit vectors (m, d) by the nearest images of a table.

    Args:
        table: to search.
        queries: unit vectors.
        neighbours: how many vote.
        exclude: see :meth:`thesis_lib.evaluation.knn.LookupTable.search`.

    Returns:
        predicted (m,) labels; similarity (m,) and row (m,) of the nearest image; seconds, of
        search and vote alone.
    """
    # The first search builds the index and starts threads, which no image is to be charged with.
    some = slice(0, 16)
    table.search(queries[some], neighbours, None if exclude is None else exclude[some])
    began = time.perf_counter()
    similarity, rows = table.search(queries, neighbours, exclude)
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
        found: what :func:`query_table` gave for them.
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
    exclude: np.ndarray | None = None,
    thresholds: Iterable[float] = THRESHOLDS,
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The table at each threshold: a row each, and what :func:`query_table` gave there.

    Rows tell of the difference to the full table on the same images: difference (fraction), its
    paired 95 % interval, and p of the exact McNemar test.

    Args:
        table: of all training images.
        kept: (thresholds, n), in the order of ``thresholds``, the last of which is FULL.
        split, queries, true, neighbours: see :func:`curve_row` and :func:`query_table`.
        exclude: (m,) the row of ``table`` that each query is; None where they are other images.
        thresholds: ascending.
    """
    rows, all_found = [], []
    for threshold, holds in zip(thresholds, kept, strict=True):
        pruned = table.only(holds)
        numbers = np.where(holds, np.cumsum(holds) - 1, -1)  # of each image in the pruned table
        found = query_table(
            pruned, queries, neighbours, None if exclude is None else numbers[exclude]
        )
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
