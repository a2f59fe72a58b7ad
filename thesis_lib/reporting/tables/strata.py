"""Tabulate the metrics over classes with many, some and few training images."""

from collections.abc import Mapping, Sequence

import pandas as pd

from thesis_lib.evaluation.statistics import metrics_by_stratum
from thesis_lib.reporting.tables.runs import metric_cells
from thesis_lib.runs.artifacts import read_predictions
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_done


def strata_table(runs: Sequence[RunDirectory], train_images: Mapping[str, int]) -> pd.DataFrame:
    """Tabulate the metrics (%) of tested runs, one row per stratum and run; strata stay together.

    Args:
        runs: the runs.
        train_images: all classes of the data set -> number of training images.
    """
    rows = []
    for run in runs:
        if is_done(run, "test"):
            answers = read_predictions(run)
            table = metrics_by_stratum(answers["true"], answers["predicted"], train_images)
            for order, found in enumerate(table.to_dict("records")):
                row = {"order": order, "training images": found["group"], "run": run.path.name}
                row |= {"classes": found["classes"], "test images": found["images"]}
                rows.append(row | metric_cells(found))
    table = pd.DataFrame(rows)
    if table.empty or table["training images"].nunique() == 1:
        return table[:0]
    table = table.sort_values("order", kind="stable").drop(columns="order").reset_index(drop=True)
    return table if len(runs) > 1 else table.drop(columns="run")
