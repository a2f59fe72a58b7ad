"""Tabulate what is left of the test images if those with low confidence are rejected."""

import math

import pandas as pd

from thesis_lib.evaluation.statistics import (
    WANTED,
    Thresholds,
    choose_thresholds,
    coverage_curve,
    rejection_by_class,
    rejection_metrics,
)
from thesis_lib.reporting.tables.runs import percent, percent_with_interval

SHOWN_BY_CLASS = 0.95  # wanted precision of the table by class


def rejection_table(confidences: pd.DataFrame) -> pd.DataFrame:
    """Tabulate coverage, precision and recall (%) on test for each wanted precision.

    Args:
        confidences: as returned by :func:`thesis_lib.runs.artifacts.read_confidences`.

    Returns:
        Two rows for each wanted precision: with one threshold, and with one for each class. No rows
        if the validation confidences are unknown.
    """
    val, test = _splits(confidences)
    rows = []
    for wanted in WANTED if len(val) else ():
        chosen = choose_thresholds(val, wanted)
        for words, thresholds in {
            "one for all": Thresholds(chosen.overall, {}),
            "by class": chosen,
        }.items():
            found = rejection_metrics(
                test, thresholds.accepts(test["predicted"], test["confidence"])
            )
            limits = found["precision_low"], found["precision_high"]
            rows.append(
                {
                    "wanted precision": f"{100 * wanted:.0f}",
                    "thresholds": words,
                    "threshold": _threshold(chosen.overall) if words == "one for all" else "",
                    "kept": percent(found["coverage"]),
                    "precision": percent_with_interval(found["precision"], limits)
                    if found["coverage"]
                    else "--",
                    "macro recall": percent(found["recall_after"]),
                    "recall lost": percent(found["recall_before"] - found["recall_after"]),
                }
            )
    return pd.DataFrame(rows)


def rejection_by_class_table(confidences: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the same for each class (%), at a wanted precision of SHOWN_BY_CLASS."""
    val, test = _splits(confidences)
    if not len(val):
        return pd.DataFrame()
    table = rejection_by_class(test, choose_thresholds(val, SHOWN_BY_CLASS))
    return pd.DataFrame(
        {
            "class": table["class"],
            "threshold": table["threshold"].map(_threshold),
            "kept": table["coverage"].map(_percent),
            "precision before": table["precision_before"].map(_percent),
            "precision": [
                "--"
                if math.isnan(row.precision)
                else percent_with_interval(row.precision, (row.precision_low, row.precision_high))
                for row in table.itertuples()
            ],
            "recall before": table["recall_before"].map(_percent),
            "recall": table["recall_after"].map(_percent),
        }
    )


def coverage_on_test(confidences: pd.DataFrame) -> pd.DataFrame:
    """Return the :func:`thesis_lib.evaluation.statistics.coverage_curve` of the test images."""
    _, test = _splits(confidences)
    right = (test["true"] == test["predicted"]).to_numpy()
    return coverage_curve(test["confidence"].to_numpy(), right)


def kept_points(confidences: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return wanted precisions, as text -> coverage and precision on test with one threshold.

    Precisions that no threshold reaches on validation are left out; those with the same threshold
    share a text.
    """
    val, test = _splits(confidences)
    shared: dict[tuple[float, float], list[str]] = {}
    for wanted in WANTED if len(val) else ():
        accepted = (test["confidence"] >= choose_thresholds(val, wanted).overall).to_numpy()
        if accepted.any():
            found = rejection_metrics(test, accepted)
            place = found["coverage"], found["precision"]
            shared.setdefault(place, []).append(f"{100 * wanted:.0f} %")
    return {", ".join(words): place for place, words in shared.items()}


def _splits(confidences: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    of_val = confidences["split"] == "val"
    return confidences[of_val], confidences[~of_val]


def _threshold(value: float) -> str:
    words = {0: "keeps all", math.inf: "rejects all"}
    return words.get(value, f"{value:.3f}")


def _percent(value: float) -> str:
    return "--" if math.isnan(value) else percent(value)
