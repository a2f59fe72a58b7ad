"""Readers of the files that a run's stages write."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd  # loaded by the functions that need it: `thesis status` cannot wait

from thesis_lib.errors import InputError
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import read_json

METRICS_COLUMNS = (
    *("epoch", "loss", "learning_rate", "seconds", "images_per_second", "peak_memory_mib"),
)


def read_metrics(run: RunDirectory) -> list[dict[str, float]]:
    """``metrics.csv``, a row an epoch; empty before the first epoch's end.

    Of an imported run it has the imported epochs alone, and NaN for what nobody recorded.

    Raises:
        InputError: for a cell that is no number.
    """
    if not run.metrics_file.is_file():
        return []
    with open(run.metrics_file, newline="", encoding="utf-8") as file:
        try:
            return [
                {name: float(value or "nan") for name, value in row.items()}
                for row in csv.DictReader(file)
            ]
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{run.metrics_file} holds something else than numbers ({error}); remove it, and "
                "`thesis pretrain` writes it again from the last checkpoint"
            ) from None


def trained_epochs(metrics: list[dict[str, float]]) -> int:
    """The last epoch of a run's metrics; 0 before the first."""
    return int(metrics[-1]["epoch"]) if metrics else 0


def trained_fingerprint(run: RunDirectory) -> str | None:
    """Fingerprint of the data that the run was trained on last; None before it was."""
    if not run.provenance_file.is_file():
        return None
    entries = reversed(read_json(run.provenance_file))
    found = (entry.get("data_fingerprint") for entry in entries)
    return next((fingerprint for fingerprint in found if fingerprint), None)


def read_predictions(run: RunDirectory) -> pd.DataFrame:
    """``predictions.csv``, with class names as text also where they look like numbers."""
    return read_texts(run.predictions_file, ("path", "true", "predicted"), "test the run again")


def read_embedding(run: RunDirectory) -> pd.DataFrame:
    """``embedding.csv``: x, y, true, predicted, a row a test image of up to MOST_EMBEDDED."""
    return read_texts(run.embedding_file, ("true", "predicted"), "test the run again")


def read_texts(file: Path, text_columns: tuple[str, ...], remedy: str) -> pd.DataFrame:
    """A CSV whose named columns are text, also where it looks like numbers or is ``NA``.

    Raises:
        InputError: for what is no table, with the remedy.
    """
    import pandas as pd

    try:
        return pd.read_csv(file, dtype=dict.fromkeys(text_columns, str), keep_default_na=False)
    except ValueError as error:  # of pandas for what is empty or no CSV
        raise InputError(f"{file} is no sound table ({error}); {remedy}") from None


def read_retrieval(run: RunDirectory) -> pd.DataFrame:
    """``retrieval.csv``: a row a threshold and split."""
    import pandas as pd

    return pd.read_csv(run.retrieval_file, float_precision="round_trip")


def read_retrieval_predictions(run: RunDirectory) -> pd.DataFrame:
    """``retrieval_predictions.csv``: a row a test image, with class names as text."""
    columns = ("path", "true", "predicted", "nearest")
    remedy = "remove it, and `thesis retrieve` makes it again"
    return read_texts(run.retrieval_predictions_file, columns, remedy)


def read_curves(run: RunDirectory) -> pd.DataFrame:
    """``probe_curves.csv``: a row a checkpoint, head learning rate and head epoch."""
    import pandas as pd

    return pd.read_csv(run.probe_curves_file, float_precision="round_trip")
