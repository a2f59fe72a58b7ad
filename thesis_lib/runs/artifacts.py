"""Read the files that the stages of a run write."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thesis_lib.config import data_set_name
from thesis_lib.errors import InputError
from thesis_lib.runs.directory import RunDirectory, run_folders
from thesis_lib.system.files import read_json
from thesis_lib.system.paths import relative_to_root

if TYPE_CHECKING:
    import pandas as pd  # imported late, so that `thesis status` answers at once

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
    return _fingerprint_in(run.provenance_file)


def _fingerprint_in(provenance_file: Path) -> str | None:
    if not provenance_file.is_file():
        return None
    entries = reversed(read_json(provenance_file))
    found = (entry.get("data_fingerprint") for entry in entries)
    return next((fingerprint for fingerprint in found if fingerprint), None)


def check_trained_on(run: RunDirectory, data: str, fingerprint: str) -> None:
    """Raise an InputError if a run was trained on other images than those of a data set.

    Args:
        run: the run.
        data: the data set's folder, for the message.
        fingerprint: see :attr:`thesis_lib.data.datasets.DataSet.fingerprint`.
    """
    trained = trained_fingerprint(run)
    if trained in (None, fingerprint):
        return
    (files, _, cut), (now, _, cut_now) = trained.partition("-"), fingerprint.partition("-")
    differ = (
        f"crop_bottom was {cut or 0} and is now {cut_now or 0}"
        if files == now
        else f"its files differ (fingerprint {trained}, now {fingerprint})"
    )
    raise InputError(
        f"{data} is not the data set that {relative_to_root(run.path)} was trained on: {differ}; "
        "restore it, or train another run on these images"
    )


def check_data_name(data: str, fingerprint: str) -> None:
    """Raise an InputError if the runs of a data set's name were trained on other files.

    Runs of one name may differ in ``crop_bottom``. Only their provenance is read, so a copy of a
    run does no harm.
    """
    for folder in run_folders(data_set_name(data)):
        trained = _fingerprint_in(folder / "provenance.json") or fingerprint
        if trained.partition("-")[0] != fingerprint.partition("-")[0]:
            raise InputError(
                f"{data} is not the data set that {relative_to_root(folder)} was trained on "
                f"(fingerprint {trained}, now {fingerprint}); restore that data set, or rename "
                f"the folder {data}: results are stored under the folder's name"
            )


def read_probe(run: RunDirectory) -> pd.DataFrame:
    """Read ``probe.csv``: one row per probed checkpoint."""
    return _read_table(run.probe_file, "delete it and run `thesis probe` again")


def read_curves(run: RunDirectory) -> pd.DataFrame:
    """Read ``probe_curves.csv``: one row per checkpoint, head learning rate and head epoch."""
    return _read_table(run.probe_curves_file, "delete it and run `thesis probe` again")


def read_best_curves(run: RunDirectory) -> pd.DataFrame:
    """Read, for each checkpoint, the curve of the head learning rate that was best for it."""
    best = read_probe(run)[["checkpoint", "head_learning_rate"]]
    return read_curves(run).merge(best)


def read_predictions(run: RunDirectory) -> pd.DataFrame:
    """Read ``predictions.csv``: one row per test image, with class names as strings."""
    texts = ("path", "true", "predicted")
    return _read_table(run.predictions_file, "delete it and run `thesis test` again", texts)


def read_embedding(run: RunDirectory) -> pd.DataFrame:
    """Read ``embedding.csv``: x, y, true, predicted for up to MOST_EMBEDDED test images."""
    texts = ("true", "predicted")
    return _read_table(run.embedding_file, "delete it and run `thesis test` again", texts)


def read_calibration(run: RunDirectory) -> pd.DataFrame:
    """Read ``calibration.csv``: one row per temperature and bin of confidence."""
    return _read_table(run.calibration_file, "delete it and run `thesis test` again")


def read_confidences(run: RunDirectory) -> pd.DataFrame:
    """Read ``confidences.csv``: each val and test image's class and calibrated confidence.

    Returns:
        split, true, predicted, confidence; no rows for a run that was tested by an earlier version.
    """
    import pandas as pd

    if not run.confidences_file.is_file():
        return pd.DataFrame(columns=["split", "true", "predicted", "confidence"])
    texts = ("split", "true", "predicted")
    return _read_table(run.confidences_file, "delete it and run `thesis test` again", texts)


def read_retrieval(run: RunDirectory) -> pd.DataFrame:
    """Read ``retrieval.csv``: one row per threshold and split."""
    return _read_table(run.retrieval_file, "delete it and run `thesis retrieve` again")


def read_retrieval_predictions(run: RunDirectory) -> pd.DataFrame:
    """Read ``retrieval_predictions.csv``: one row per test image, with class names as strings."""
    texts = ("path", "true", "predicted", "nearest")
    remedy = "delete it and run `thesis retrieve` again"
    return _read_table(run.retrieval_predictions_file, remedy, texts)


def read_ood(run: RunDirectory) -> pd.DataFrame:
    """Read ``ood.csv``: one row per fold and score; empty if there were too few classes."""
    import pandas as pd

    if run.ood_file.is_file() and not run.ood_file.read_text("utf-8").strip():
        return pd.DataFrame()
    return _read_table(run.ood_file, "delete it and run `thesis retrieve` again")


def read_learning_curve(run: RunDirectory) -> pd.DataFrame:
    """Read ``learning_curve.csv``: one row per number of images; empty for earlier runs."""
    import pandas as pd

    if not run.learning_curve_file.is_file():
        return pd.DataFrame()
    return _read_table(run.learning_curve_file, "delete it and run `thesis retrieve` again")


def _read_table(file: Path, remedy: str, texts: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read a CSV file; some columns as strings, also where they look like numbers or ``NA``.

    Args:
        file: the CSV file.
        remedy: what the user can do about a damaged file, for the error message.
        texts: names of the columns to read as strings.

    Raises:
        InputError: if the file is not a CSV table.
    """
    import pandas as pd

    as_texts = {"dtype": dict.fromkeys(texts, str), "keep_default_na": False} if texts else {}
    try:
        return pd.read_csv(file, float_precision="round_trip", **as_texts)
    except ValueError as error:  # raised by pandas if the file is empty or not CSV
        raise InputError(f"{file} is not a valid CSV table ({error}); {remedy}") from None


def tested_before(before: dict[str, Any], names: tuple[str, ...], now: str) -> list[dict[str, Any]]:
    """Return the history of tests of other choices: an earlier result and its own history.

    Args:
        before: the earlier result, with its ``history``.
        names: keys of the result to keep; the first is the key of the hash of the choice.
        now: hash of the choice tested now, which is left out.

    Returns:
        The kept keys of each result, oldest first.
    """
    entries = [*before.get("history", []), {name: before.get(name) for name in names}]
    return [entry for entry in entries if entry[names[0]] != now]
