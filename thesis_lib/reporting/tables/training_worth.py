"""Compare runs that train their backbone with runs that do not: is the training worth it?"""

import math
from collections.abc import Sequence

import pandas as pd

from thesis_lib.evaluation.statistics import Comparison
from thesis_lib.methods import UNTRAINED
from thesis_lib.reporting.tables.runs import (
    accuracy_table,
    percent_with_interval,
    weights_words,
)
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.provenance import recorded_weights
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import read_json
from thesis_lib.system.progress import elapsed_words


def training_seconds(run: RunDirectory) -> float:
    """Return how long a run's backbone was trained, NaN if that was not recorded.

    If it started from the weights of another run, the training of that run counts, too.
    """
    before = recorded_weights(run).get("seconds", 0.0)
    return before + sum(row["seconds"] for row in read_metrics(run))


def is_untrained(run: RunDirectory) -> bool:
    """Return whether a run's backbone was not trained on this data, here or in another run."""
    return run.config.method in UNTRAINED and training_seconds(run) == 0


def starting_points(runs: Sequence[RunDirectory]) -> list[RunDirectory]:
    """Return the tested runs if they differ in method, weights or head; else an empty list."""
    tested = [run for run in runs if is_done(run, "test")]
    kinds = {(run.config.method, run.config.weights, run.config.head) for run in tested}
    return tested if len(kinds) > 1 else []


def accuracy_against_hours(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Collect the data for the figure of test accuracy against hours of training.

    Returns:
        Columns run, backbone, accuracy, low and high (fractions), method, and hours (0 without
        training); runs whose training was not timed are left out.
    """
    compared = starting_points(runs)
    table = accuracy_table(compared)[["run", "backbone", "accuracy", "low", "high"]]
    table["method"] = [run.config.method for run in compared]
    table["hours"] = [training_seconds(run) / 3600 for run in compared]
    return table.dropna(subset="hours")


def floors(runs: Sequence[RunDirectory]) -> dict[str, float]:
    """Return the accuracies that guessing would reach on the test set, from a tested run."""
    for run in starting_points(runs):
        if found := read_json(run.test_file).get("floors"):
            return found
    return {}


def worth_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Tabulate method, weights, head, training time and metrics (%), ascending by time."""
    rows = []
    timed = {run: training_seconds(run) for run in starting_points(runs)}
    for run in sorted(timed, key=lambda run: (math.isnan(timed[run]), timed[run])):
        test, seconds = read_json(run.test_file), timed[run]
        words = "not recorded" if math.isnan(seconds) else elapsed_words(seconds)
        if is_untrained(run):
            words = "none"
        row = {"run": run.path.name, "method": run.config.method}
        row |= {"weights": weights_words(run), "head": run.config.head, "training": words}
        for name in ("accuracy", "f1"):
            row[name] = percent_with_interval(test[name], test[f"{name}_interval"])
        rows.append(row)
    return pd.DataFrame(rows)


def worth_sentence(runs: Sequence[RunDirectory], pairs: Sequence[Comparison]) -> str:
    """Compare the best trained run with the best untrained one, both chosen on validation."""
    compared = [run for run in starting_points(runs) if run.selection_file.is_file()]
    best = {}
    for run in sorted(compared, key=lambda run: read_json(run.selection_file)["val_accuracy"]):
        best[is_untrained(run)] = run.path.name
    if len(best) < 2:
        return "There is no run with and one without training of the backbone to compare."
    pair = next(pair for pair in pairs if {pair.a, pair.b} == set(best.values()))
    return f"The best run with training and the best one without, by validation: {pair.sentence}."
