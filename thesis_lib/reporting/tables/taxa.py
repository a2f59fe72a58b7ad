"""Tabulate the metrics with classes merged into taxa, and over organisms alone."""

import pandas as pd

from thesis_lib.data.sources import Taxonomy
from thesis_lib.evaluation.statistics import (
    metrics_by_level,
    metrics_of_living,
    mistake_distances,
)
from thesis_lib.reporting.tables.runs import metric_cells


def taxa_table(predictions: pd.DataFrame, taxonomy: Taxonomy | None) -> pd.DataFrame:
    """Tabulate the metrics (%) at each level of the taxonomy; no rows without one."""
    if taxonomy is None:
        return pd.DataFrame()
    table = metrics_by_level(predictions["true"], predictions["predicted"], taxonomy)
    if table.empty:
        return table
    shown = {"level": table["level"], "taxa": table["taxa"], "such as": table["names"]}
    return _with_metrics(shown, table)


def living_table(predictions: pd.DataFrame, taxonomy: Taxonomy | None) -> pd.DataFrame:
    """Tabulate the metrics (%) over organisms and over other classes; no rows if not known."""
    living = taxonomy.living if taxonomy else {}
    table = metrics_of_living(predictions["true"], predictions["predicted"], living)
    if table.empty:
        return table
    shown = {"classes are": table["group"], "classes": table["classes"], "images": table["images"]}
    return _with_metrics(shown, table)


def _with_metrics(shown: dict[str, pd.Series], table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(shown).join(pd.DataFrame(map(metric_cells, table.to_dict("records"))))


def distance_sentence(predictions: pd.DataFrame, taxonomy: Taxonomy) -> str:
    """Say how far apart true and predicted class of a mistake are in the tree."""
    true, predicted = predictions["true"], predictions["predicted"]
    if (true == predicted).all():
        return "There is no mistake."
    found, chance = mistake_distances(true, predicted, taxonomy)
    return (
        f"True and predicted class of a mistake are {found:.1f} steps apart in the tree on average "
        f"({chance:.1f} for a class at random)."
    )
