"""Pruning a look-up table against the bare matrix products and the naive loop."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import Result, best, in_turns, median_ratio
from thesis_lib.evaluation.knn import unit_vectors
from thesis_lib.evaluation.pruning import ROWS_AT_ONCE, kept_images
from thesis_lib.reporting.tables.published import published_table
from thesis_lib.system.device import peak_memory_mib

WIDTH = 2048  # of the features
THRESHOLDS = np.arange(80, 101) / 100
MOST_MIB = 2048


def made_up_vectors(are_alike: bool, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (33,135, width) and labels with the published sizes of the training classes.

    Args:
        are_alike: vectors lie around the centre of their class, most similarities within it
            are from 0.8 to 1, and pruning keeps about as many as published for ResNet50 (15 %
            at 0.80, 55 % at 0.89); else in all directions.
        width: dimensions.
    """
    rng = np.random.default_rng(0)
    counts = published_table("classes")["train"].to_numpy()
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = unit_vectors(np.abs(rng.standard_normal((len(counts), width))))
    vectors = rng.standard_normal((len(labels), width), dtype=np.float32)
    # A few at a time: copies of all would hide from the peak memory what pruning needs.
    for rows in np.array_split(np.arange(len(labels)), 200):
        own = unit_vectors(vectors[rows])
        if are_alike:
            nearness = rng.beta(18, 1.7, (len(rows), 1))
            own = unit_vectors(nearness * centres[labels[rows]] + np.sqrt(1 - nearness**2) * own)
        vectors[rows] = own
    return vectors, labels


def bare_products(vectors: np.ndarray, labels: np.ndarray, stays: np.ndarray) -> Callable[[], None]:
    """The products that pruning cannot do without: results are thrown away.

    Each block of a class's images with the earlier ones that ``stays`` (n,) names, and with
    itself.
    """
    products = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        own, staying = torch.from_numpy(vectors[rows]), torch.from_numpy(vectors[rows[stays[rows]]])
        for start in range(0, len(rows), ROWS_AT_ONCE):
            earlier = staying[: stays[rows[:start]].sum()]
            products.append((own[start : start + ROWS_AT_ONCE], earlier))

    def multiply() -> None:
        for block, earlier in products:
            block @ earlier.T
            block @ block.T

    return multiply


def naive_loop(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """The images (n,) bool of one class that pruning keeps: a float64 product for each pair."""
    vectors = vectors.astype(np.float64)
    kept = np.ones(len(vectors), dtype=bool)
    for first in range(len(vectors)):
        if kept[first]:
            for later in range(first + 1, len(vectors)):
                if vectors[first] @ vectors[later] > threshold:
                    kept[later] = False
    return kept


OLDER_WAYS = {  # name: the function, and the class and thresholds of the part that is timed
    "naive loop": (naive_loop, "003_Polychaeta_Type A", THRESHOLDS),
}


def comparisons(kept: np.ndarray, labels: np.ndarray) -> int:
    """Pairs of a kept image and a later one of its class, which the naive loop compares.

    Args:
        kept: (thresholds, n) bool.
        labels: (n,).
    """
    later = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        later[rows] = np.arange(len(rows))[::-1]
    return int((kept * later).sum())


def pruning(rounds: int, device: torch.device) -> Iterator[Result]:
    """Goal 12: all thresholds against the bare products, the older ways, and the memory."""
    for are_alike in (False, True):
        vectors, labels = made_up_vectors(are_alike)
        kept = kept_images(vectors, labels, THRESHOLDS)
        yield _against_bare(rounds, vectors, labels, kept)
    for name, (way, of_class, thresholds) in OLDER_WAYS.items():
        part = labels == published_table("classes")["class"].tolist().index(of_class)
        of_part = kept[np.isin(THRESHOLDS, thresholds)][:, part]
        factor = comparisons(kept, labels) / comparisons(of_part, labels[part])
        name = f"{name}, extrapolated from {part.sum():,} images x {len(thresholds)} thresholds"
        timed = partial(_every, way, vectors[part], thresholds)
        yield _against_older(min(rounds, 3), vectors, labels, name, timed, factor)
    yield _memory(vectors.nbytes / 2**20)


def _against_bare(rounds: int, vectors: np.ndarray, labels: np.ndarray, kept: np.ndarray) -> Result:
    seconds = in_turns(
        rounds,
        ours=lambda: kept_images(vectors, labels, THRESHOLDS),
        bare=bare_products(vectors, labels, kept[THRESHOLDS < 1].any(0)),
    )
    ratio = median_ratio(seconds["ours"], seconds["bare"])
    at_80, at_89 = kept[[0, 9]].mean(1)
    return Result(
        12,
        f"pruning {len(labels):,} vectors of {WIDTH:,} at {len(THRESHOLDS)} thresholds "
        f"({at_80:.0%} kept at 0.80, {at_89:.0%} at 0.89)",
        "s",
        best(seconds["ours"]),
        best(seconds["bare"]),
        "bare products of the same blocks",
        ratio,
        "<= 1.5x",
        ratio <= 1.5,
        seconds,
    )


def _against_older(  # noqa: PLR0913
    rounds: int,
    vectors: np.ndarray,
    labels: np.ndarray,
    name: str,
    part: Callable[[], None],
    factor: float,
) -> Result:
    """Ours against an older way whose part takes a ``factor``-th of the whole's comparisons."""
    seconds = in_turns(rounds, ours=lambda: kept_images(vectors, labels, THRESHOLDS), part=part)
    whole = [factor * s for s in seconds["part"]]
    return Result(
        12,
        "the same, against an older way",
        "s",
        best(seconds["ours"]),
        best(whole),
        name,
        median_ratio(whole, seconds["ours"]),
        "",
        True,
        seconds,
    )


def _every(
    way: Callable[[np.ndarray, float], np.ndarray], vectors: np.ndarray, thresholds: np.ndarray
) -> None:
    for threshold in thresholds:
        way(vectors, threshold)


def _memory(vectors_mib: float) -> Result:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "benchmarks.pruning"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    peak = int(run.stdout)
    return Result(
        12,
        "peak memory of a process that makes up the vectors and prunes them",
        "MiB",
        peak,
        vectors_mib,
        "the vectors",
        peak / vectors_mib,
        f"<= {MOST_MIB:,} MiB",
        peak <= MOST_MIB,
    )


def peak_of_pruning() -> None:
    """Print the peak memory of this process, MiB, once it has pruned."""
    vectors, labels = made_up_vectors(are_alike=True)
    kept_images(vectors, labels, THRESHOLDS)
    print(peak_memory_mib(torch.device("cpu")))


if __name__ == "__main__":
    peak_of_pruning()
