"""Tabulate how runs do on data sets other than their own."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from thesis_lib.reporting.tables.runs import percent, percent_with_interval
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_done, selection_digest
from thesis_lib.system.files import read_json


def elsewhere_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Tabulate accuracy and macro F1 (%) of tested runs on each other data set.

    Tests of an earlier choice of checkpoint are left out.
    """
    rows = []
    for run in runs:
        for file in sorted(run.elsewhere.glob("*.json")) if is_done(run, "test") else ():
            found, own = read_json(file), read_json(run.test_file)
            if found["selection"] != selection_digest(run):
                continue
            rows.append(
                {
                    "run": run.path.name,
                    "data set": file.stem,
                    "images": found["n"],
                    "classes": found["classes"],
                    "accuracy": percent_with_interval(
                        found["accuracy"], found["accuracy_interval"]
                    ),
                    "accuracy on test": percent(own["accuracy"]),
                    "macro F1": percent(found["f1"]),
                    "of unknown classes": sum(found["unknown_classes"].values()),
                }
            )
    return pd.DataFrame(rows)


def elsewhere_sentence(found: Mapping[str, Any]) -> str:
    """Say how a run does on another data set, and what was left out."""
    shown = percent_with_interval(found["accuracy"], found["accuracy_interval"])
    unknown = found["unknown_classes"]
    parts = [
        f"accuracy {shown} % on {found['n']:,} images of {found['classes']} classes of "
        f"{found['data']}"
    ]
    if unknown:
        names = ", ".join(unknown)
        parts.append(f"left out, of unknown classes: {sum(unknown.values()):,} ({names})")
    if found["seen_before"]:
        parts.append(f"left out, as the run was trained on them: {found['seen_before']:,}")
    if found["skipped_images"]:
        parts.append(f"unreadable: {found['skipped_images']:,}")
    return "; ".join(parts)
