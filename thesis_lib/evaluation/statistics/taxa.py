"""Compute metrics of classes merged into taxa, and how far off mistakes are in the tree."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from thesis_lib.data.sources import Taxonomy
from thesis_lib.evaluation.statistics.metrics import METRICS, Labels, classification_metrics
from thesis_lib.evaluation.statistics.strata import metrics_of_groups

MOST_NAMED = 3  # taxa of a level


def metrics_by_level(true: Labels, predicted: Labels, taxonomy: Taxonomy) -> pd.DataFrame:
    """Compute the metrics at each level of a taxonomy, with the classes merged into taxa.

    Levels with a single taxon, or with the same taxa as the level above, are left out.

    Args:
        true, predicted: (n,) class names.
        taxonomy: of the classes.

    Returns:
        One row per level, from the highest down: level, taxa (their number), names (of the first
        few), and each of METRICS with its interval in ``<metric>_low`` and ``<metric>_high``.
    """
    rows: list[dict[str, object]] = []
    for level in range(1, taxonomy.depth + 1):
        taxa = {name: ">".join(taxonomy.taxon(name, level)) for name in taxonomy.lineages}
        names = sorted(set(taxa.values()))
        if len(names) == 1 or (rows and rows[-1]["taxa"] == len(names)):
            continue
        merged_true, merged_predicted = ([taxa[name] for name in ls] for ls in (true, predicted))
        found = classification_metrics(merged_true, merged_predicted, names)
        row: dict[str, object] = {"level": level, "taxa": len(names), "names": _first_of(names)}
        for metric in METRICS:
            low, high = found[f"{metric}_interval"]
            row |= {metric: found[metric], f"{metric}_low": low, f"{metric}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def _first_of(names: Sequence[str]) -> str:
    shown = [name.rsplit(">", 1)[-1] for name in names[:MOST_NAMED]]
    return ", ".join(shown) + (", ..." if len(names) > MOST_NAMED else "")


def metrics_of_living(true: Labels, predicted: Labels, living: Mapping[str, bool]) -> pd.DataFrame:
    """Compute the metrics over the organisms, and over all other classes.

    Args:
        true, predicted: (n,) class names.
        living: class -> whether it is an organism; other classes are a group of their own.

    Returns:
        As :func:`thesis_lib.evaluation.statistics.strata.metrics_of_groups`; no rows if nothing
        is known, or all classes are alike.
    """
    words = {True: "living", False: "not living", None: "unknown whether living"}
    groups = {name: words[living.get(str(name))] for name in sorted({*true, *predicted, *living})}
    if len(set(groups.values())) == 1:
        return pd.DataFrame()
    order = [name for name in words.values() if name in groups.values()]
    return metrics_of_groups(true, predicted, groups, order)


def mistake_distances(true: Labels, predicted: Labels, taxonomy: Taxonomy) -> tuple[float, float]:
    """Compute the mean number of steps in the tree between true and predicted class of a mistake.

    Returns:
        The mean over the mistakes; and what it would be if each had been given another class at
        random, by their numbers of test images. NaN without a mistake.
    """
    true_names, predicted_names = np.asarray(true), np.asarray(predicted)
    wrong = true_names != predicted_names
    if not wrong.any():
        return float("nan"), float("nan")
    pairs = zip(true_names[wrong], predicted_names[wrong], strict=True)
    found = [taxonomy.distance(one, other) for one, other in pairs]
    names, counts = np.unique(true_names, return_counts=True)
    steps = {}  # true class -> mean number of steps to another class
    for name in names[np.isin(names, true_names[wrong])] if len(names) > 1 else ():
        others = [taxonomy.distance(name, other) for other in names[names != name]]
        steps[name] = np.average(others, weights=counts[names != name])
    by_chance = [steps[name] for name in true_names[wrong] if name in steps]
    return float(np.mean(found)), float(np.mean(by_chance)) if by_chance else float("nan")
