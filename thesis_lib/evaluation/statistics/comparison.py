"""Compare the test accuracies of runs by exact paired tests on the same images."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from thesis_lib.errors import InputError
from thesis_lib.evaluation.statistics.intervals import wilson_interval
from thesis_lib.runs.artifacts import (
    read_predictions,
    read_retrieval_predictions,
)
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_done

LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """Hold the comparison of two classifiers on the same images.

    ``both``, ``only_a``, ``only_b`` and ``neither`` count the images that both classifiers, only
    one of them or neither classifies correctly. ``difference`` is b's accuracy minus a's, and
    ``low`` to ``high`` is its paired 95 % confidence interval (all fractions). ``p`` is the
    p-value of the exact McNemar test; ``p_holm`` is adjusted for the number of pairs.
    """

    a: str
    b: str
    both: int
    only_a: int
    only_b: int
    neither: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float

    @property
    def is_shown(self) -> bool:
        """Return whether the difference is significant at the 5 % level after adjustment."""
        return self.p_holm < LEVEL

    @property
    def sentence(self) -> str:
        """Return the result of the test as a sentence."""
        sign = 1 if self.difference >= 0 else -1
        low, high = sorted((100 * sign * self.low, 100 * sign * self.high))
        size = f"{100 * abs(self.difference):.2f} points (95 % interval {low:.2f} to {high:.2f})"
        p = f"p {'< 0.001' if self.p_holm < 0.001 else f'= {self.p_holm:.3f}'}"
        better, other = (self.b, self.a) if sign > 0 else (self.a, self.b)
        if self.is_shown:
            return f"{better} better than {other} by {size}, {p}"
        if self.difference == 0:
            return (
                f"{self.a} and {self.b}: no difference shown; both have the same accuracy "
                f"(95 % interval {low:.2f} to {high:.2f} points), {p}"
            )
        return f"{self.a} and {self.b}: no difference shown; {better} ahead by {size}, {p}"


def compare(a: str, b: str, right_a: np.ndarray, right_b: np.ndarray) -> Comparison:
    """Compare two classifiers that were tested on the same images.

    Args:
        a, b: names of the classifiers.
        right_a, right_b: (n,) bool, whether each classifies each image correctly.
    """
    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    both, only_a = int((right_a & right_b).sum()), int((right_a & ~right_b).sum())
    only_b, neither = int((~right_a & right_b).sum()), int((~right_a & ~right_b).sum())
    p = mcnemar_p(only_a, only_b)
    low, high = paired_interval(both, only_a, only_b, neither)
    difference = (only_b - only_a) / len(right_a)
    return Comparison(a, b, both, only_a, only_b, neither, difference, low, high, p, p)


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Compute the two-sided p-value of the exact McNemar test.

    It is a binomial test with p = 0.5 on the images that only one classifier has right.
    """
    n = only_a + only_b
    return float(binomtest(only_a, n, 0.5).pvalue) if n else 1.0


def paired_interval(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """Compute the 95 % confidence interval of b's accuracy minus a's on the same images.

    Source: method 10 of R. G. Newcombe, Statistics in Medicine 17 (1998) 2635-2650, which
    combines the Wilson intervals of both accuracies and takes their correlation into account.

    Returns:
        The limits of the interval, as fractions.
    """
    n = both + only_a + only_b + neither
    p_b, p_a = (both + only_b) / n, (both + only_a) / n
    (low_b, high_b), (low_a, high_a) = (
        wilson_interval(both + only_b, n),
        wilson_interval(both + only_a, n),
    )
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    determinant: float = both * neither - only_a * only_b
    if determinant > 0:
        determinant = max(determinant - n / 2, 0)
    correlation = determinant / math.sqrt(margins) if margins else 0.0

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0))

    difference = p_b - p_a
    return (
        difference - reach(p_b - low_b, high_a - p_a),
        difference + reach(high_b - p_b, p_a - low_a),
    )


def holm(p_values: list[float]) -> list[float]:
    """Adjust p-values for multiple testing by Holm's step-down method, keeping their order."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.maximum.accumulate(np.asarray(p_values)[order] * factors).clip(max=1)
    found = np.empty(len(p_values))
    found[order] = adjusted
    return found.tolist()


def points_cell(difference: float, low: float, high: float) -> str:
    """Format a difference of fractions in points, such as ``+1.20 (-0.30 to +2.70)``."""
    return f"{100 * difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def check_same_images(a: str, right_a: pd.Series, b: str, right_b: pd.Series) -> None:
    """Check that two classifiers were tested on the same images.

    Args:
        a, b: names of the classifiers.
        right_a, right_b: (n,) values for each image, indexed by its path.

    Raises:
        InputError: if the images differ. The message names both classifiers.
    """
    if not right_a.index.sort_values().equals(right_b.index.sort_values()):
        only = right_a.index.symmetric_difference(right_b.index)
        raise InputError(
            f"{a} and {b} were tested on different images and cannot be compared ({len(only)} "
            f"are not in both, such as {only[0]!r}); test both on the same files"
        )


def compare_all(right: Mapping[str, pd.Series]) -> list[Comparison]:
    """Compare all pairs of classifiers, with p-values adjusted for the number of pairs.

    Args:
        right: name -> whether each image is classified correctly (bool, indexed by its path).

    Raises:
        InputError: if two classifiers were tested on different images. The message names both.
    """
    pairs = []
    for a, b in itertools.combinations(right, 2):
        check_same_images(a, right[a], b, right[b])
        pairs.append(compare(a, b, right[a].to_numpy(), right[b].loc[right[a].index].to_numpy()))
    adjusted = holm([pair.p for pair in pairs])
    return [replace(pair, p_holm=p) for pair, p in zip(pairs, adjusted, strict=True)]


def right_images(run: RunDirectory) -> pd.Series:
    """Return whether a tested run classifies each test image (index: its path) correctly."""
    predictions = read_predictions(run).set_index("path")
    return predictions["true"] == predictions["predicted"]


def compare_runs(runs: Sequence[RunDirectory]) -> list[Comparison]:
    """Compare all pairs of tested runs on a data set, image by image.

    Runs that were not tested yet are left out.

    Raises:
        InputError: if two runs were tested on different images. The message names both.
    """
    return compare_all({run.path.name: right_images(run) for run in runs if is_done(run, "test")})


def comparison_table(pairs: Sequence[Comparison]) -> pd.DataFrame:
    """Make a table with one row per pair: difference in percentage points, interval, p-values."""
    rows = [
        {
            "run a": pair.a,
            "run b": pair.b,
            "b - a (points)": points_cell(pair.difference, pair.low, pair.high),
            "only a right": pair.only_a,
            "only b right": pair.only_b,
            "p": f"{pair.p:.3g}",
            "p (Holm)": f"{pair.p_holm:.3g}",
            "shown": "yes" if pair.is_shown else "no",
        }
        for pair in pairs
    ]
    return pd.DataFrame(rows)


def comparison_matrix(pairs: Sequence[Comparison]) -> pd.DataFrame:
    """Make a matrix of the differences, row minus column, in percentage points.

    Each cell has Holm's p-value, and a star if the difference is significant.
    """
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
    matrix = pd.DataFrame("", index=names, columns=names)
    for pair in pairs:
        star = " *" if pair.is_shown else ""
        for row, column, sign in ((pair.b, pair.a, 1), (pair.a, pair.b, -1)):
            points = 100 * sign * pair.difference + 0.0  # turns -0.0 into 0.0
            matrix.loc[row, column] = f"{points:+.2f} (p {pair.p_holm:.2g}){star}"
    return matrix.rename_axis("run").reset_index()


def compare_with_head(run: RunDirectory) -> Comparison | None:
    """Compare head and look-up table on the test images; None if one was not tested."""
    if not (is_done(run, "test") and is_done(run, "retrieve")):
        return None
    by_head = read_predictions(run).set_index("path")
    by_table = read_retrieval_predictions(run).set_index("path").loc[by_head.index]
    return compare(
        "the head",
        "the look-up table",
        (by_head["true"] == by_head["predicted"]).to_numpy(),
        (by_table["true"] == by_table["predicted"]).to_numpy(),
    )
