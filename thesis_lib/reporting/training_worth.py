"""Compare runs that train their backbone with runs that do not: is the training worth it?"""

from collections.abc import Sequence

import pandas as pd

from thesis_lib.config import FROZEN
from thesis_lib.evaluation.comparison import Comparison
from thesis_lib.reporting.tables import (
    elapsed_words,
    is_measured,
    percent_with_interval,
    weights_words,
)
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import read_json


def starting_points(runs: Sequence[RunDirectory]) -> list[RunDirectory]:
    """Return the tested runs if they differ in method or initial weights; else an empty list."""
    tested = [run for run in runs if is_done(run, "test")]
    kinds = {(run.config.method, run.config.weights) for run in tested}
    return tested if len(kinds) > 1 else []


def accuracy_against_hours(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Collect the data for the figure of test accuracy against hours of training.

    Returns:
        Columns run, backbone, method, hours (0 without training), accuracy, low and high
        (fractions); runs whose training was not timed are left out.
    """
    rows = []
    for run in starting_points(runs):
        if run.config.method == FROZEN or is_measured(run):
            test = read_json(run.test_file)
            low, high = test["accuracy_interval"]
            rows.append(
                {
                    "run": run.path.name,
                    "backbone": run.config.backbone,
                    "method": run.config.method,
                    "hours": _seconds(run) / 3600,
                    "accuracy": test["accuracy"],
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(rows)


def worth_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Tabulate method, weights, training time, accuracy and macro F1 (%), ascending by time."""
    rows = []
    for run in sorted(starting_points(runs), key=_seconds):
        test, words = read_json(run.test_file), "not recorded"
        if run.config.method == FROZEN:
            words = "none"
        elif is_measured(run):
            words = elapsed_words(_seconds(run))
        row = {"run": run.path.name, "method": run.config.method}
        row |= {"weights": weights_words(run), "training": words}
        for name in ("accuracy", "f1"):
            row[name] = percent_with_interval(test[name], test[f"{name}_interval"])
        rows.append(row)
    return pd.DataFrame(rows)


def worth_sentence(runs: Sequence[RunDirectory], pairs: Sequence[Comparison]) -> str:
    """Compare the best trained run with the best untrained one, both chosen on validation."""
    compared = [run for run in starting_points(runs) if run.selection_file.is_file()]
    best = {}
    for run in sorted(compared, key=lambda run: read_json(run.selection_file)["val_accuracy"]):
        best[run.config.method == FROZEN] = run.path.name
    if len(best) < 2:
        return "There is no run with and one without training of the backbone to compare."
    pair = next(pair for pair in pairs if {pair.a, pair.b} == set(best.values()))
    return f"The best run with training and the best one without, by validation: {pair.sentence}."


def _seconds(run: RunDirectory) -> float:
    """Return the time of a run's training; 0 without one, NaN if it was not recorded."""
    return sum(row["seconds"] for row in read_metrics(run))
