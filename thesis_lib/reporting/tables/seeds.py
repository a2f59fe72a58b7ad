"""Tabulate the results of configurations over seeds, and their comparisons."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from thesis_lib.evaluation.statistics import (
    SeedComparison,
    Summary,
    by_configuration,
    compare_configurations,
    points_cell,
    right_by_seed,
    summarize,
)
from thesis_lib.reporting.tables.runs import percent
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import read_json

SHOWN = {"accuracy": "accuracy", "f1": "macro F1"}  # and their names in the figure


class OverSeeds:
    """The results of tested runs over their seeds, for each configuration (all other settings).

    ``groups``: name of a configuration -> its runs, ordered by seed.
    """

    def __init__(self, runs: Sequence[RunDirectory]) -> None:
        self.groups = by_configuration(runs)

    @cached_property
    def _right(self) -> dict[str, pd.DataFrame]:
        return {name: right_by_seed(group) for name, group in self.groups.items()}

    @property
    def are_several(self) -> bool:
        """Whether any configuration was trained with several seeds."""
        return any(len(group) > 1 for group in self.groups.values())

    @cached_property
    def summaries(self) -> dict[str, dict[str, Summary]]:
        """Name of a configuration -> metric -> summary; empty without a second seed."""
        if not self.are_several:
            return {}
        found = {}
        for name, group in self.groups.items():
            results = [read_json(run.test_file) for run in group]
            found[name] = summarize(results, self._right[name].to_numpy())
        return found

    @cached_property
    def pairs(self) -> list[SeedComparison]:
        """The comparisons of all pairs of configurations; empty without a second seed."""
        return compare_configurations(self._right) if self.are_several else []

    @property
    def sentence(self) -> str:
        """How many seeds the configurations have, and what the intervals mean, as a sentence."""
        single = [name for name, group in self.groups.items() if len(group) == 1]
        if not self.are_several:
            return (
                "Each configuration was trained with a single seed: the intervals do not include "
                "how much the results vary with the seed. `thesis run --seed 1 2 3` trains several."
            )
        if single:
            return f"Trained with a single seed: {', '.join(single)}."
        counts = sorted({len(group) for group in self.groups.values()})
        return f"Seeds of each configuration: {' or '.join(map(str, counts))}."


def summary_cell(summary: Summary) -> str:
    """Format a metric in percent as ``95.10 ± 0.32 (94.21 to 95.80)``: mean, SD and interval."""
    spread = "" if np.isnan(summary.sd) else f" ± {percent(summary.sd)}"
    return f"{percent(summary.mean)}{spread} ({percent(summary.low)} to {percent(summary.high)})"


def seeds_table(summaries: Mapping[str, Mapping[str, Summary]]) -> pd.DataFrame:
    """Tabulate mean, SD and interval (%) of accuracy and macro F1 of each configuration."""
    rows = []
    for name, found in summaries.items():
        row = {"configuration": name, "seeds": len(found["accuracy"].values)}
        rows.append(row | {metric: summary_cell(found[metric]) for metric in SHOWN})
    return pd.DataFrame(rows)


def seed_pairs_table(pairs: Sequence[SeedComparison]) -> pd.DataFrame:
    """Tabulate the differences in mean accuracy (points), one row per pair of configurations."""
    rows = [
        {
            "configuration a": pair.a,
            "configuration b": pair.b,
            "seeds": f"{pair.seeds[0]} and {pair.seeds[1]}",
            "b - a (points)": points_cell(pair.difference, pair.low, pair.high),
            "p (Holm)": "" if np.isnan(pair.p_holm) else f"{pair.p_holm:.3g}",
            "shown": pair.verdict,
        }
        for pair in pairs
    ]
    return pd.DataFrame(rows)


def seeds_points(summaries: Mapping[str, Mapping[str, Summary]]) -> pd.DataFrame:
    """Collect the data for the figure: one row per configuration and plotted metric.

    Returns:
        Columns configuration, metric, mean, low, high (fractions) and values (one per seed).
    """
    return pd.DataFrame(
        {
            "configuration": name,
            "metric": words,
            "mean": found[metric].mean,
            "low": found[metric].low,
            "high": found[metric].high,
            "values": found[metric].values,
        }
        for name, found in summaries.items()
        for metric, words in SHOWN.items()
    )
