"""Tabulate what sampling by class and balanced heads cost in accuracy and gain for rare classes."""

from collections.abc import Sequence

import pandas as pd

from thesis_lib.config import IDENTITY, PRETRAIN, PROBE
from thesis_lib.evaluation.statistics import compare_macro, compare_runs
from thesis_lib.methods import NATURAL, PLAIN
from thesis_lib.reporting.tables.runs import percent_with_interval
from thesis_lib.runs.artifacts import read_predictions
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import read_json

OWN = {"tag", "sampling", "head_balance"}  # settings in which a run and its baseline may differ


def balance_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Tabulate the differences (percentage points) of balanced runs from their baselines.

    The baseline of a run has natural sampling and a plain head, and all other settings are the
    same. Runs without a tested baseline are left out.
    """
    tested = [run for run in runs if is_done(run, "test")]
    pairs = [(base, run) for run in tested if (base := _baseline(run, tested)) is not None]
    rows = []
    for base, run in pairs:
        (accuracy,) = compare_runs([base, run])
        ours, theirs = (read_predictions(one).set_index("path") for one in (run, base))
        classes = read_json(run.test_file)["classes"]
        ours = ours.loc[theirs.index]
        macro = compare_macro(theirs["true"], theirs["predicted"], ours["predicted"], classes)
        rows.append(
            {
                "run": run.path.name,
                "sampling": run.config.sampling,
                "head": run.config.head_balance,
                "accuracy": _points(accuracy.difference, accuracy.low, accuracy.high),
                "p": f"{accuracy.p:.3f}",
                "balanced accuracy": _points(*macro["recall"]),
                "macro F1": _points(*macro["f1"]),
            }
        )
    return pd.DataFrame(rows)


def _points(difference: float, low: float, high: float) -> str:
    sign = "+" if difference > 0 else ""
    return sign + percent_with_interval(difference, (low, high))


def _baseline(run: RunDirectory, tested: Sequence[RunDirectory]) -> RunDirectory | None:
    if (run.config.sampling, run.config.head_balance) == (NATURAL, PLAIN):
        return None
    for other in tested:
        differing = run.config.differences(other.config, (IDENTITY, PRETRAIN, PROBE))
        is_plain = (other.config.sampling, other.config.head_balance) == (NATURAL, PLAIN)
        if is_plain and set(differing) <= OWN:
            return other
    return None
