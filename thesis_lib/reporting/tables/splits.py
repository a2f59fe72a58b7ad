"""Tabulate the results of configurations over several splits of the same images."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from thesis_lib.data.datasets import DataSet
from thesis_lib.evaluation.statistics import (
    ENOUGH,
    Summary,
    by_configuration,
    compare,
    holm,
    loss_between,
    points_cell,
    resampled_interval,
    resampled_p,
    right_by_seed,
    right_images,
    summarize,
    summarize_splits,
)
from thesis_lib.reporting.tables.seeds import SHOWN, summary_cell
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import read_json

BOUNDS = ["low", "high"]
ByKind = tuple[str, str]  # name of a configuration, and how its splits were made


class OverSplits:
    """The results of tested runs over splits of the same images, some made in another way.

    ``datasets`` are the splits. ``groups``: configuration and kind of split -> name of the split
    -> its runs, which differ in their seed.
    """

    def __init__(self, datasets: Sequence[DataSet], runs: Sequence[RunDirectory]) -> None:
        self.datasets = {dataset.name: dataset for dataset in datasets}
        self.groups: dict[ByKind, dict[str, list[RunDirectory]]] = {}
        for name, group in by_configuration(runs).items():
            for run in sorted(group, key=lambda run: list(self.datasets).index(_split_of(run))):
                kind = self.datasets[_split_of(run)].kind
                splits = self.groups.setdefault((name, kind), {})
                splits.setdefault(_split_of(run), []).append(run)

    @cached_property
    def values(self) -> dict[ByKind, dict[str, pd.DataFrame]]:
        """Configuration and kind -> metric -> table with a row per split, each a mean over seeds.

        Columns: value, and low and high of the interval over the test images of that split.
        """
        return {
            key: {metric: _by_split(splits, metric) for metric in SHOWN}
            for key, splits in self.groups.items()
        }

    def ratio(self, splits: Sequence[str]) -> float:
        """Return the mean number of test images per training image."""
        sizes = (self.datasets[split].splits for split in splits)
        return float(np.mean([len(size["test"]) / len(size["train"]) for size in sizes]))

    @cached_property
    def summaries(self) -> dict[ByKind, dict[str, Summary]]:
        """Configuration and kind -> metric -> summary over the splits; empty for one split.

        With a single split of a kind, the interval is that over its seeds and test images.
        """
        if len(self.datasets) < 2:
            return {}
        found = {}
        for key, splits in self.groups.items():
            if len(splits) > 1:
                ratio = self.ratio(list(splits))
                found[key] = {
                    metric: summarize_splits(t["value"].tolist(), t[BOUNDS].to_numpy(), ratio)
                    for metric, t in self.values[key].items()
                }
            else:
                (runs,) = splits.values()
                results = [read_json(run.test_file) for run in runs]
                over_seeds = summarize(results, right_by_seed(runs).to_numpy())
                found[key] = {
                    metric: replace(
                        over_seeds[metric], values=(over_seeds[metric].mean,), sd=np.nan
                    )
                    for metric in SHOWN
                }
        return found

    @property
    def sentence(self) -> str:
        """What differs between the splits, as sentences."""
        if len(self.datasets) < 2:
            return (
                "The runs share one split of the images: the intervals do not include how much "
                "the results vary with the split. `thesis split --seed 1 2 3` or `--folds 5` makes "
                "several, and `thesis run --data` takes all of them."
            )
        kinds: defaultdict[str, list[DataSet]] = defaultdict(list)
        for dataset in self.datasets.values():
            kinds[dataset.kind].append(dataset)
        made = "; ".join(f"{k}: {', '.join(d.draw for d in of_it)}" for k, of_it in kinds.items())
        tested = [set(dataset.splits["test"].files) for dataset in self.datasets.values()]
        shared = [len(a & b) / min(len(a), len(b)) for a, b in combinations(tested, 2)]
        found = (runs for splits in self.groups.values() for runs in splits.values())
        seeds = sorted({run.config.seed for runs in found for run in runs})
        return (
            f"{len(tested)} splits ({made}), each with its own training, validation and test "
            f"images; on average, two splits share {100 * np.mean(shared):.0f} % of their test "
            f"images. Training seeds: {', '.join(map(str, seeds)) or 'none'}."
        )


def _by_split(splits: Mapping[str, Sequence[RunDirectory]], metric: str) -> pd.DataFrame:
    rows = {}
    for split, runs in splits.items():
        results = [read_json(run.test_file) for run in runs]
        rows[split] = np.mean([[r[metric], *r[f"{metric}_interval"]] for r in results], axis=0)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", *BOUNDS])


def _split_of(run: RunDirectory) -> str:
    return run.path.parent.name


def splits_table(over: OverSplits) -> pd.DataFrame:
    """Tabulate mean, SD and interval (%) of accuracy and macro F1 over the splits."""
    rows = []
    for (name, kind), found in over.summaries.items():
        splits = over.groups[name, kind]
        row = {"configuration": name, "split": kind, "splits": len(splits)}
        row["runs"] = sum(map(len, splits.values()))
        rows.append(row | {metric: summary_cell(found[metric]) for metric in SHOWN})
    return pd.DataFrame(rows)


def split_pairs_table(over: OverSplits) -> pd.DataFrame:
    """Tabulate the differences in accuracy (points) of configurations on the same splits."""
    rows, ps = [], []
    for (a, kind), (b, other) in combinations(over.summaries, 2):
        if kind != other:
            continue
        shared = [split for split in over.groups[a, kind] if split in over.groups[b, kind]]
        if len(shared) < 2:
            continue
        values = [over.values[name, kind]["accuracy"]["value"][shared] for name in (a, b)]
        differences, ratio = (values[1] - values[0]).to_numpy(), over.ratio(shared)
        bounds = np.array([_paired_bounds(over, (a, b), kind, split) for split in shared])
        low, high = resampled_interval(differences, differences[:, None] + bounds, ratio)
        rows.append(
            {
                "configuration a": a,
                "configuration b": b,
                "split": kind,
                "splits": len(shared),
                "b - a (points)": points_cell(differences.mean(), low, high),
            }
        )
        ps.append(resampled_p(differences, ratio) if len(shared) >= ENOUGH else np.nan)
    table = pd.DataFrame(rows)
    if rows:
        tested = np.flatnonzero(~np.isnan(ps))
        adjusted = dict(zip(tested, holm([ps[i] for i in tested]), strict=True))
        table["p (Holm)"] = [f"{adjusted[i]:.3g}" if i in adjusted else "" for i in range(len(ps))]
    return table


def _paired_bounds(
    over: OverSplits, names: tuple[str, str], kind: str, split: str
) -> tuple[float, float]:
    """Return the margins of Newcombe's interval of two configurations, by their first seeds."""
    first = (right_images(over.groups[name, kind][split][0]) for name in names)
    pair = compare(*names, *(right.sort_index().to_numpy() for right in first))
    return pair.low - pair.difference, pair.high - pair.difference


def split_loss_table(over: OverSplits) -> pd.DataFrame:
    """Tabulate how much lower the metrics are on splits that were made in another way.

    They are compared with the splits of the configuration that were not grouped, if there are any.
    """
    rows = []
    grouped = {dataset.kind for dataset in over.datasets.values() if dataset.groups}
    for name in dict.fromkeys(name for name, _ in over.summaries):
        kinds = [kind for of, kind in over.summaries if of == name]
        kinds.sort(key=lambda kind: kind in grouped)
        first = over.summaries[name, kinds[0]]
        for kind in kinds[1:]:
            row = {"configuration": name, "from": kinds[0], "to": kind}
            for metric, words in SHOWN.items():
                lost = loss_between(first[metric], over.summaries[name, kind][metric])
                row[f"loss of {words} (points)"] = points_cell(*lost)
            rows.append(row)
    return pd.DataFrame(rows)


def splits_points(over: OverSplits) -> pd.DataFrame:
    """Collect the data for the figure, as ``seeds_points`` does."""
    kinds = {kind for _, kind in over.summaries}
    return pd.DataFrame(
        {
            "configuration": name if len(kinds) == 1 else f"{name}, {kind}",
            "metric": words,
            "mean": found[metric].mean,
            "low": found[metric].low,
            "high": found[metric].high,
            "values": found[metric].values,
        }
        for (name, kind), found in over.summaries.items()
        for metric, words in SHOWN.items()
    )
