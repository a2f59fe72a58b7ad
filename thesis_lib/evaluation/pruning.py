"""Prune a look-up table: drop near-copies within a class, and choose the pruning threshold."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from thesis_lib.data.statistics import imbalance
from thesis_lib.evaluation.knn import LookupTable
from thesis_lib.evaluation.statistics.comparison import LEVEL, compare
from thesis_lib.evaluation.statistics.metrics import METRICS, classification_metrics

THRESHOLDS = tuple(step / 100 for step in range(80, 101))
FULL = 1.0  # the threshold that drops no image
MARGIN = 0.005  # largest loss of accuracy that a pruned table may have, a fraction

ROWS_AT_ONCE = 256
MOST_THRESHOLDS = 31  # each needs two bits of 64
CELLS = 2**16  # cells from similarity 0 to 1; a power of 2, so scaling by it is exact
BEYOND = 64  # extra cells beyond 1 and -1, for vectors slightly longer than 1 by rounding
SHIFT = CELLS + BEYOND  # the cell of similarity 0, so that no cell has a negative index


def kept_images(vectors: np.ndarray, labels: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Find the images that pruning keeps at each threshold.

    Within a class, images are considered in the order of their rows. An image is dropped if its
    cosine similarity to a kept image exceeds the threshold. At a threshold of 1 or more no image
    is dropped, even if rounding makes the similarity of identical images larger than 1.

    All thresholds are evaluated in one pass: float32 products of each block of images with the
    earlier images that any threshold keeps. Products so close to a threshold that rounding might
    matter are computed again in float64. The result is therefore the same as if every pair were
    compared in float64.

    Args:
        vectors: (n, d) float32, of unit length.
        labels: (n,) class labels.
        thresholds: at most 31 thresholds, in any order.

    Returns:
        (num_thresholds, n) bool, in the order of ``thresholds``.

    Raises:
        ValueError: if there are more than 31 thresholds.
    """
    if len(thresholds) > MOST_THRESHOLDS:
        raise ValueError(f"{len(thresholds)} thresholds; at most {MOST_THRESHOLDS} are possible")
    asked = np.asarray(thresholds, dtype=np.float64)
    below = asked < 1
    kept = np.ones((len(thresholds), len(labels)), dtype=bool)
    table = _bits_of_cells(asked[below], vectors.shape[1])
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        bits = _kept_of_class(vectors, rows, asked[below], table)
        kept[np.ix_(below, rows)] = bits >> np.arange(below.sum())[:, None] & 1
    return kept


def _bits_of_cells(thresholds: np.ndarray, d: int) -> torch.Tensor:
    """Make a table of which thresholds a float32 similarity exceeds, given its cell, as bits.

    Bit t is set if the similarity certainly exceeds threshold t, bit 31 + t if rounding leaves
    that open.
    """
    low = np.arange(-SHIFT, SHIFT)[:, None] / CELLS  # (cells, 1)
    high = low + 1 / CELLS
    # The largest rounding error of a float32 sum of d products of unit vectors, in any order of
    # summation (Higham 2002, section 3.1); d + 4 instead of d because the shift rounds as well.
    error = (d + 4) * 2.0**-24
    error /= 1 - error
    exceeds = low - error >= thresholds
    may_exceed = (high + error > thresholds) & ~exceeds
    bit = 1 << np.arange(len(thresholds))
    return torch.from_numpy((exceeds * bit).sum(1) | (may_exceed * bit).sum(1) << MOST_THRESHOLDS)


def _kept_of_class(
    vectors: np.ndarray, rows: np.ndarray, thresholds: np.ndarray, table: torch.Tensor
) -> np.ndarray:
    """Return, for each row of a class, the thresholds that keep it, as bits: (rows,) int64."""
    bit = 1 << np.arange(len(thresholds))
    every = int(bit.sum())
    kept = np.empty(len(rows), dtype=np.int64)
    # Vectors and bits of the earlier images that any threshold keeps, followed by the block. Each
    # bit is stored twice, to match both kinds of bits in the table.
    own = np.empty((len(rows), vectors.shape[1]), dtype=np.float32)
    own_bits = np.zeros(len(rows), dtype=np.int64)
    earlier = 0
    for start in range(0, len(rows), ROWS_AT_ONCE):
        block = rows[start : start + ROWS_AT_ONCE]
        end = earlier + len(block)
        # mode="clip" is faster: with the default mode, take buffers its output.
        np.take(vectors, block, axis=0, out=own[earlier:end], mode="clip")
        columns, bits = torch.from_numpy(own[:end]), own_bits[:end]
        similarity = columns[earlier:] @ columns.T  # (block, end)
        cells = similarity.mul_(CELLS).add_(SHIFT).long()
        pairs = table.gather(0, cells.flatten()).view_as(cells).numpy()
        for image, exceeds in enumerate(pairs, start=earlier):
            hits = exceeds & bits  # (end,); the bits of this image and later ones are still 0
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
        if len(staying) < len(block):  # move the kept images together
            stop = earlier + len(staying)
            own[earlier:stop], bits[earlier:stop], bits[stop:] = own[staying], bits[staying], 0
        earlier += len(staying)
    return kept


@dataclass(frozen=True)
class Queries:
    """Images to classify with a look-up table.

    ``split`` is val, test, or train (leave-one-out), ``vectors`` (m, d) are the unit vectors of
    their features, ``labels`` (m,) their classes, and ``exclude`` (m,) their row indices in the
    table, or None if they are not in it.
    """

    split: str
    vectors: np.ndarray
    labels: np.ndarray
    exclude: np.ndarray | None = None


def query_table(
    table: LookupTable, queries: np.ndarray, neighbours: int, exclude: np.ndarray | None = None
) -> dict[str, Any]:
    """Classify unit vectors (m, d) by the nearest images of a table.

    Args:
        table: look-up table to search.
        queries: unit vectors.
        neighbours: number of nearest neighbours that vote.
        exclude: see :meth:`thesis_lib.evaluation.knn.LookupTable.search`.

    Returns:
        predicted (m,) labels; similarity (m,) and row (m,) of the nearest image; seconds, the
        time of search and vote only.
    """
    # Warm up first, so that building the index and starting threads is not timed.
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
    """Make the row of ``retrieval.csv`` for one pruning threshold.

    Args:
        table: the pruned table.
        threshold: the pruning threshold.
        split: the split of the query images: val, test, or train (leave-one-out).
        true: (m,) class labels of the query images.
        found: result of :func:`query_table` for the query images.
    """
    num_classes = len(table.classes)
    measured = classification_metrics(true, found["predicted"], range(num_classes))
    row = {"threshold": threshold, "split": split, "images": len(table)}
    for name in METRICS:
        low, high = measured[f"{name}_interval"]
        row |= {name: measured[name], f"{name}_low": low, f"{name}_high": high}
    counts = np.bincount(table.labels, minlength=num_classes)
    return row | {
        "n": measured["n"],
        "index_mib": table.mib,
        "seconds_per_image": found["seconds"] / len(true),
        **imbalance(counts),
    }


def pruning_curve(
    table: LookupTable,
    kept: np.ndarray,
    queries: Queries,
    neighbours: int,
    thresholds: Iterable[float] = THRESHOLDS,
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Classify the queries with the table pruned at each threshold.

    Args:
        table: look-up table of all training images.
        kept: (num_thresholds, n) bool, see :func:`kept_images`.
        queries: the images to classify.
        neighbours: number of nearest neighbours that vote.
        thresholds: ascending; the last one is FULL.

    Returns:
        One row per threshold, and the result of :func:`query_table` for each. Besides the
        columns of :func:`curve_row`, rows have the accuracy difference to the full table on the
        same images (a fraction), its paired 95 % confidence interval, and the p-value of the
        exact McNemar test.
    """
    rows, all_found = [], []
    for threshold, holds in zip(thresholds, kept, strict=True):
        pruned = table.only(holds)
        new_rows = np.where(holds, np.cumsum(holds) - 1, -1)  # row indices in the pruned table
        exclude = None if queries.exclude is None else new_rows[queries.exclude]
        found = query_table(pruned, queries.vectors, neighbours, exclude)
        rows.append(curve_row(pruned, threshold, queries.split, queries.labels, found))
        all_found.append(found)
    right = [found["predicted"] == queries.labels for found in all_found]
    for row, those in zip(rows, right, strict=True):
        pair = compare("the full table", f"the table at {row['threshold']:.2f}", right[-1], those)
        row |= {"difference": pair.difference, "difference_low": pair.low}
        row |= {"difference_high": pair.high, "p": pair.p}
    return pd.DataFrame(rows), all_found


def choose_threshold(curve: pd.DataFrame) -> float:
    """Choose the threshold of the smallest table that is not worse than the full table.

    A table counts as worse if the paired test shows a significantly lower accuracy, or if its
    accuracy is lower by more than MARGIN. The margin is needed because with few images hardly
    any difference is significant. Each table is tested at LEVEL, without adjustment for multiple
    testing: an adjustment would call fewer tables worse and make the choice less cautious. Among
    equally small tables, the one with the highest threshold is chosen.
    """
    shown = (curve["p"] < LEVEL) & (curve["difference"] < 0)
    worse = shown | (curve["difference"] < -MARGIN)
    ordered = curve[~worse].sort_values(["images", "threshold"], ascending=[True, False])
    return float(ordered["threshold"].iloc[0])
