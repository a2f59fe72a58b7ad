"""Summarise and compare configurations that were trained with several seeds.

The difference between two runs can come from the seed alone. A configuration (all settings but the
seed) is therefore judged by its mean over seeds. The interval of the mean has two parts: the seeds,
of which there are few, and the test images, which all seeds share. ``benchmarks/coverage.py``
measures how often the intervals contain the true value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from thesis_lib.config import IDENTITY, PRETRAIN, PROBE
from thesis_lib.evaluation.statistics.comparison import (
    LEVEL,
    check_same_images,
    compare,
    holm,
    right_images,
)
from thesis_lib.evaluation.statistics.metrics import METRICS
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_done

ENOUGH = 6  # seeds of each configuration for a test; with fewer it would hardly find anything


@dataclass(frozen=True)
class Summary:
    """Hold a metric of one configuration over its seeds, as fractions.

    ``values`` has the metric of each seed, ``sd`` their standard deviation (NaN for one seed), and
    ``low`` to ``high`` is the 95 % interval of the mean over seeds and test images. With one seed,
    the interval is that over test images alone.
    """

    values: tuple[float, ...]
    sd: float
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Return the mean over the seeds."""
        return float(np.mean(self.values))


@dataclass(frozen=True)
class SeedComparison:
    """Hold the comparison of two configurations, with the seeds as replicates.

    ``difference`` is b's mean accuracy minus a's, and ``low`` to ``high`` its 95 % interval over
    seeds and test images (fractions). ``p_holm`` is the p value of :func:`welch_p`, adjusted for
    the number of pairs; it is NaN if a configuration has fewer than ENOUGH seeds.
    """

    a: str
    b: str
    seeds: tuple[int, int]
    difference: float
    low: float
    high: float
    p_holm: float

    @property
    def verdict(self) -> str:
        """Return yes, no, or that there are too few seeds to decide."""
        if np.isnan(self.p_holm):
            return f"fewer than {ENOUGH} seeds"
        return "yes" if self.p_holm < LEVEL else "no"


def by_configuration(runs: Sequence[RunDirectory]) -> dict[str, list[RunDirectory]]:
    """Group tested runs by all settings but the seed.

    Returns:
        The name of a run without its seed -> its runs, ordered by seed. If runs of the same name
        differ in another setting, the name of each group is followed by its seeds.
    """
    groups: dict[tuple, list[RunDirectory]] = {}
    for run in sorted(runs, key=lambda run: run.config.seed):
        if is_done(run, "test"):
            config = run.config.updated(seed=0)
            names = config.field_names(IDENTITY, PRETRAIN, PROBE)
            groups.setdefault(tuple(getattr(config, name) for name in names), []).append(run)
    names = [of_all_seeds(group[0]) for group in groups.values()]
    return {
        name if names.count(name) == 1 else f"{name} ({seeds_words(group)})": group
        for name, group in zip(names, groups.values(), strict=True)
    }


def of_all_seeds(run: RunDirectory) -> str:
    """Return the name of a run without its seed."""
    return run.config.run_name.replace(f"-seed{run.config.seed}", "", 1)


def seeds_words(group: Sequence[RunDirectory]) -> str:
    """Return ``seed 42`` or ``seeds 1, 2, 3``."""
    seeds = ", ".join(str(run.config.seed) for run in group)
    return f"seed{'s' * (len(group) > 1)} {seeds}"


def right_by_seed(group: Sequence[RunDirectory]) -> pd.DataFrame:
    """Return which test images each run classifies correctly: rows are paths, columns runs.

    Raises:
        InputError: if two runs were tested on different images.
    """
    columns = {run.path.name: right_images(run).sort_index() for run in group}
    first = group[0].path.name
    for name, column in columns.items():
        check_same_images(first, columns[first], name, column)
    return pd.DataFrame(columns)


def summarize(results: Sequence[Mapping[str, Any]], right: np.ndarray) -> dict[str, Summary]:
    """Summarise each of METRICS over results on the same images, such as those of several seeds.

    Args:
        results: S results of :func:`thesis_lib.evaluation.classification_metrics`.
        right: (n, S) whether each image is classified correctly.
    """
    shared = shared_margin(right)
    found = {}
    for name in METRICS:
        values = np.array([result[name] for result in results])
        bounds = np.array([result[f"{name}_interval"] for result in results])
        low, high = interval_of_mean(values, bounds, shared)
        sd = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        found[name] = Summary(tuple(values.tolist()), sd, max(low, 0.0), min(high, 1.0))
    return found


def interval_of_mean(values: np.ndarray, bounds: np.ndarray, shared: float) -> tuple[float, float]:
    """Compute the 95 % interval of the mean of a metric over seeds and test images.

    The margin over seeds is Student's, t s / sqrt(S). That over test images is the mean margin of
    the single runs times ``shared``. Both are combined by squaring and adding, separately for each
    side (Zou and Donner, Statistics in Medicine 27 (2008) 1693-1702).

    Args:
        values: (S,) the metric for each seed.
        bounds: (S, 2) its interval over test images for each seed.
        shared: the share of a single run's margin that remains in the mean, from
            :func:`shared_margin`.
    """
    mean, seeds = values.mean(), _seed_margin(values)
    below, above = shared * np.abs(bounds - values[:, None]).mean(0)
    return float(mean - np.hypot(seeds, below)), float(mean + np.hypot(seeds, above))


def _seed_margin(values: np.ndarray) -> float:
    n = len(values)
    return student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0


def shared_margin(values: np.ndarray) -> float:
    """Return the standard error over test images of a mean over runs, relative to a single run's.

    It is 1 if all runs classify the same images correctly, and less otherwise.

    Args:
        values: (n, S), for each image and run, such as whether it is classified correctly.
    """
    single = values.var(axis=0).mean()
    return float(np.sqrt(values.mean(axis=1).var() / single)) if single else 1.0


def compare_configurations(right: Mapping[str, pd.DataFrame]) -> list[SeedComparison]:
    """Compare the accuracies of all pairs of configurations, with the seeds as replicates.

    Args:
        right: name of a configuration -> what :func:`right_by_seed` returns for its runs.

    Raises:
        InputError: if two configurations were tested on different images.
    """
    pairs = []
    for a, b in combinations(right, 2):
        check_same_images(a, right[a].iloc[:, 0], b, right[b].iloc[:, 0])
        pairs.append(compare_means(a, b, right[a].to_numpy(), right[b].to_numpy()))
    tested = [index for index, pair in enumerate(pairs) if not np.isnan(pair.p_holm)]
    adjusted = holm([pairs[index].p_holm for index in tested])
    for index, p in zip(tested, adjusted, strict=True):
        pairs[index] = replace(pairs[index], p_holm=p)
    return pairs


def compare_means(a: str, b: str, right_a: np.ndarray, right_b: np.ndarray) -> SeedComparison:
    """Compare the mean accuracies of two configurations on the same test images.

    The margin over seeds is Welch's, and that over test images 1.96 standard errors, without the
    part that :func:`interaction` finds in the margin over seeds already. Both are squared and
    added. For a single seed of each, the interval is Newcombe's over test images.

    Args:
        a, b: names of the configurations.
        right_a, right_b: (n, seeds of a), (n, seeds of b) bool, whether each image is classified
            correctly with each seed.
    """
    both, counts = (right_a, right_b), (right_a.shape[1], right_b.shape[1])
    if max(counts) == 1:
        pair = compare(a, b, right_a[:, 0], right_b[:, 0])
        return SeedComparison(a, b, counts, pair.difference, pair.low, pair.high, float("nan"))
    per_image = right_b.mean(1) - right_a.mean(1)
    difference = float(per_image.mean())
    over_seeds = [
        right.mean(0).var(ddof=1) / n if n > 1 else 0.0
        for right, n in zip(both, counts, strict=True)
    ]
    noise = sum(interaction(right) / n for right, n in zip(both, counts, strict=True))
    over_images = max(per_image.var(ddof=1) - noise, 0) / len(per_image)
    margin = np.hypot(
        student.ppf(0.975, _freedom(over_seeds, counts)) * np.sqrt(sum(over_seeds)),
        1.96 * np.sqrt(over_images),
    )
    p = float("nan")
    if min(counts) >= ENOUGH:
        p = welch_p(difference, over_seeds, counts, over_images)
    return SeedComparison(
        a, b, counts, difference, float(difference - margin), float(difference + margin), p
    )


def interaction(right: np.ndarray) -> float:
    """Estimate the variance of the results of single images and seeds around both their means.

    It is the mean square of the residuals of a two-way analysis of variance, for a (n, S) array;
    0 for a single seed, for which it is unknown.
    """
    n, seeds = right.shape
    if seeds == 1:
        return 0.0
    residuals = right - right.mean(0) - right.mean(1)[:, None] + right.mean()
    return float((residuals**2).sum() / ((n - 1) * (seeds - 1)))


def _freedom(parts: Sequence[float], counts: Sequence[int], more: float = 0.0) -> float:
    """Return the degrees of freedom of a sum of variances (Welch and Satterthwaite).

    Args:
        parts: variances of means, estimated from as many values as ``counts`` says.
        counts: numbers of values.
        more: another variance, which is known.
    """
    estimated = sum(part**2 / (n - 1) for part, n in zip(parts, counts, strict=True) if part)
    return (sum(parts) + more) ** 2 / estimated if estimated else np.inf


def welch_p(
    difference: float, over_seeds: Sequence[float], counts: Sequence[int], over_images: float
) -> float:
    """Compute the two-sided p value of Welch's t test, with the variance over test images added.

    Args:
        difference: of the two means.
        over_seeds: variances of both means over seeds.
        counts: numbers of seeds.
        over_images: variance of the difference over test images.
    """
    variance = sum(over_seeds) + over_images
    if not variance:
        return float(difference == 0)
    freedom = _freedom(over_seeds, counts, over_images)
    return float(2 * student.sf(abs(difference) / np.sqrt(variance), freedom))
