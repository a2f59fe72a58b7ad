"""Tabulate the F1 of each class, the runs side by side."""

from collections.abc import Sequence

import pandas as pd

from thesis_lib.evaluation.statistics import per_class_table
from thesis_lib.reporting.tables.runs import percent_with_interval
from thesis_lib.runs.artifacts import read_predictions
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import read_json

MOST_RUNS = 3  # shown side by side: those with the highest test accuracy


def class_f1(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Collect the F1 of each class of the best tested runs, the class with the lowest mean first.

    Returns:
        One row per class and run: class, run, images (of the test split), f1, f1_low and f1_high
        (fractions). The best run comes first; at most MOST_RUNS are taken.
    """
    results = {run: read_json(run.test_file) for run in runs if is_done(run, "test")}
    best = sorted(results, key=lambda run: -results[run]["accuracy"])[:MOST_RUNS]
    parts = []
    for run in best:
        answers = read_predictions(run)
        table = per_class_table(answers["true"], answers["predicted"], results[run]["classes"])
        parts.append(table.assign(run=run.path.name))
    if not parts:
        return pd.DataFrame()
    found = pd.concat(parts, ignore_index=True)
    mean = found.groupby("class")["f1"].transform("mean")
    columns = ["class", "run", "images", "f1", "f1_low", "f1_high"]
    return found.assign(mean=mean).sort_values(["mean", "class"], kind="stable")[columns]


def class_f1_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Tabulate the F1 (%) of each class with its 95 % interval, one column per run."""
    rows: dict[str, dict[str, object]] = {}
    for found in class_f1(runs).to_dict("records"):
        row = rows.setdefault(found["class"], {"class": found["class"], "images": found["images"]})
        row[found["run"]] = (
            ""
            if pd.isna(found["f1_low"])  # no image of this class, and none is predicted as it
            else percent_with_interval(found["f1"], (found["f1_low"], found["f1_high"]))
        )
    return pd.DataFrame(list(rows.values()))
