"""Read the files that the stages of a run write."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd  # imported late, so that `thesis status` answers at once

from thesis_lib.errors import InputError
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import read_json

METRICS_COLUMNS = (
    *("epoch", "loss", "learning_rate", "seconds", "images_per_second", "peak_memory_mib"),
)


def read_metrics(run: RunDirectory) -> list[dict[str, float]]:
    """Read ``metrics.csv``, one row per epoch; an empty list before the end of the first epoch.

    For an imported run, only the imported epochs have a row, with NaN where nothing was recorded.

    Raises:
        InputError: if a cell is not a number.
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
                f"{run.metrics_file} has a cell that is not a number ({error}); delete the file, "
                "and `thesis pretrain` rewrites it from the last checkpoint"
            ) from None


def trained_epochs(metrics: list[dict[str, float]]) -> int:
    """Return the last epoch in a run's metrics; 0 if there is none."""
    return int(metrics[-1]["epoch"]) if metrics else 0


def trained_fingerprint(run: RunDirectory) -> str | None:
    """Return the fingerprint of the data that a run was last trained on; None if never trained."""
    if not run.provenance_file.is_file():
        return None
    entries = reversed(read_json(run.provenance_file))
    found = (entry.get("data_fingerprint") for entry in entries)
    return next((fingerprint for fingerprint in found if fingerprint), None)


def read_predictions(run: RunDirectory) -> pd.DataFrame:
    """Read ``predictions.csv``, one row per test image, with class names as strings."""
    columns = ("path", "true", "predicted")
    return read_texts(run.predictions_file, columns, "delete it and run `thesis test` again")


def read_embedding(run: RunDirectory) -> pd.DataFrame:
    """Read ``embedding.csv``: x, y, true, predicted for up to MOST_EMBEDDED test images."""
    columns = ("true", "predicted")
    return read_texts(run.embedding_file, columns, "delete it and run `thesis test` again")


def read_texts(file: Path, text_columns: tuple[str, ...], remedy: str) -> pd.DataFrame:
    """Read a CSV file with some columns as strings, also where they look like numbers or ``NA``.

    Args:
        file: the CSV file.
        text_columns: names of the columns to read as strings.
        remedy: what the user can do about a damaged file, for the error message.

    Raises:
        InputError: if the file is not a CSV table.
    """
    import pandas as pd

    try:
        return pd.read_csv(file, dtype=dict.fromkeys(text_columns, str), keep_default_na=False)
    except ValueError as error:  # raised by pandas if the file is empty or not CSV
        raise InputError(f"{file} is not a valid CSV table ({error}); {remedy}") from None


def read_retrieval(run: RunDirectory) -> pd.DataFrame:
    """Read ``retrieval.csv``: one row per threshold and split."""
    import pandas as pd

    return pd.read_csv(run.retrieval_file, float_precision="round_trip")


def read_retrieval_predictions(run: RunDirectory) -> pd.DataFrame:
    """Read ``retrieval_predictions.csv``: one row per test image, with class names as strings."""
    columns = ("path", "true", "predicted", "nearest")
    remedy = "delete it and run `thesis retrieve` again"
    return read_texts(run.retrieval_predictions_file, columns, remedy)


def read_curves(run: RunDirectory) -> pd.DataFrame:
    """Read ``probe_curves.csv``: one row per checkpoint, head learning rate and head epoch."""
    import pandas as pd

    return pd.read_csv(run.probe_curves_file, float_precision="round_trip")
