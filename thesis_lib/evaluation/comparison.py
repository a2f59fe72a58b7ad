"""Which runs differ: exact paired tests on the same test images, and what they allow to say."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from thesis_lib.errors import InputError
from thesis_lib.evaluation.metrics import wilson_interval
from thesis_lib.runs.artifacts import (
    read_predictions,
    read_retrieval_predictions,
)
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import (
    is_retrieved,
    is_tested,
)

LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same images.

    ``both``, ``only_a``, ``only_b``, ``neither`` count the images by who is right.
    ``difference`` is b's accuracy less a's, with its paired 95 % interval (fractions); ``p`` is
    of the exact McNemar test, ``p_holm`` the same adjusted for all pairs compared with it.
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
        """Whether the difference is shown at a level of 5 %, all pairs considered."""
        return self.p_holm < LEVEL

    @property
    def sentence(self) -> str:
        """What the test allows to say."""
        sign = 1 if self.difference >= 0 else -1
        low, high = sorted((100 * sign * self.low, 100 * sign * self.high))
        size = f"{100 * abs(self.difference):.2f} points (95 % interval {low:.2f} to {high:.2f})"
        p = f"p {'< 0.001' if self.p_holm < 0.001 else f'= {self.p_holm:.3f}'}"
        better, other = (self.b, self.a) if sign > 0 else (self.a, self.b)
        if self.is_shown:
            return f"{better} better than {other} by {size}, {p}"
        if self.difference == 0:
            return (
                f"{self.a} and {self.b}: no difference shown; both have as many right "
                f"(95 % interval {low:.2f} to {high:.2f} points), {p}"
            )
        return f"{self.a} and {self.b}: no difference shown; {better} ahead by {size}, {p}"


def compare(a: str, b: str, right_a: np.ndarray, right_b: np.ndarray) -> Comparison:
    """Compare two classifiers by which of the same images each has right.

    Args:
        a, b: their names.
        right_a, right_b: (n,) truth values, image by image.
    """
    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    both, only_a = int((right_a & right_b).sum()), int((right_a & ~right_b).sum())
    only_b, neither = int((~right_a & right_b).sum()), int((~right_a & ~right_b).sum())
    p = mcnemar_p(only_a, only_b)
    low, high = paired_interval(both, only_a, only_b, neither)
    difference = (only_b - only_a) / len(right_a)
    return Comparison(a, b, both, only_a, only_b, neither, difference, low, high, p, p)


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Two-sided p of the exact McNemar test: the images that one alone has right are a coin's."""
    n = only_a + only_b
    return float(binomtest(only_a, n, 0.5).pvalue) if n else 1.0


def paired_interval(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """95 % interval of b's accuracy less a's on the same images, as fractions.

    Method 10 of R. G. Newcombe, Statistics in Medicine 17 (1998) 2635-2650: Wilson's intervals
    of both, put together with their correlation.
    """
    n = both + only_a + only_b + neither
    p_b, p_a = (both + only_b) / n, (both + only_a) / n
    (low_b, high_b), (low_a, high_a) = (
        wilson_interval(both + only_b, n),
        wilson_interval(both + only_a, n),
    )
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    determinant = both * neither - only_a * only_b
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
    """p-values adjusted for their number by Holm's step-down, in their order."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.maximum.accumulate(np.asarray(p_values)[order] * factors).clip(max=1)
    found = np.empty(len(p_values))
    found[order] = adjusted
    return found.tolist()


def compare_all(right: Mapping[str, pd.Series]) -> list[Comparison]:
    """Compare every pair, with p-values adjusted for the number of pairs.

    Args:
        right: name -> which images are right, a truth value by the image's path.

    Raises:
        InputError: where two were tested on different images, naming both.
    """
    pairs = []
    for a, b in itertools.combinations(right, 2):
        if not right[a].index.sort_values().equals(right[b].index.sort_values()):
            only = right[a].index.symmetric_difference(right[b].index)
            raise InputError(
                f"{a} and {b} were tested on different images ({len(only)} are not in both, such "
                f"as {only[0]!r}) and cannot be compared; test both on the same files"
            )
        pairs.append(compare(a, b, right[a].to_numpy(), right[b].loc[right[a].index].to_numpy()))
    adjusted = holm([pair.p for pair in pairs])
    return [replace(pair, p_holm=p) for pair, p in zip(pairs, adjusted, strict=True)]


def compare_runs(runs: Sequence[RunDirectory]) -> list[Comparison]:
    """Compare every pair of tested runs on a data set, image by image.

    Raises:
        InputError: where two were tested on different images, naming both.
    """
    right = {}
    for run in runs:
        if is_tested(run):
            predictions = read_predictions(run).set_index("path")
            right[run.path.name] = predictions["true"] == predictions["predicted"]
    return compare_all(right)


def comparison_table(pairs: Sequence[Comparison]) -> pd.DataFrame:
    """A row a pair: difference of accuracies in points with its interval, and the p-values."""
    rows = [
        {
            "run a": pair.a,
            "run b": pair.b,
            "b - a (points)": f"{100 * pair.difference:+.2f} "
            f"({100 * pair.low:+.2f} to {100 * pair.high:+.2f})",
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
    """Row less column in points, with Holm's p; a star where the difference is shown."""
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
    matrix = pd.DataFrame("", index=names, columns=names)
    for pair in pairs:
        star = " *" if pair.is_shown else ""
        for row, column, sign in ((pair.b, pair.a, 1), (pair.a, pair.b, -1)):
            points = 100 * sign * pair.difference
            matrix.loc[row, column] = f"{points:+.2f} (p {pair.p_holm:.2g}){star}"
    return matrix.rename_axis("run").reset_index()


def compare_with_head(run: RunDirectory) -> Comparison | None:
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
