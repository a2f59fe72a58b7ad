"""Decide which stages of a run are done, by one rule for all of them.

When a stage ends, ``status.json`` records the hash of its inputs. The stage is done as long as its
inputs have this hash and its outputs exist. This module only reads small files, so that
``thesis status`` answers at once.
"""

import hashlib
import json
from typing import Any

from thesis_lib.config import IDENTITY, PRETRAIN, PROBE, RunConfig
from thesis_lib.errors import InputError
from thesis_lib.methods import LINEAR, NATURAL, PLAIN
from thesis_lib.runs.artifacts import read_metrics, trained_epochs, trained_fingerprint
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import file_digest, read_json
from thesis_lib.system.paths import find_data

STAGES = ("pretrain", "probe", "test", "retrieve")
# stage -> its outputs, as attributes of RunDirectory. "table" is the first part of "retrieve":
# predictions need the look-up table, but not its test.
OUTPUTS = {
    "pretrain": ("metrics_file",),
    "probe": ("selection_file", "probe_file", "probe_curves_file", "head_file"),
    "test": ("test_file", "predictions_file", "embedding_file", "calibration_file"),
    "table": ("table_file", "table_choice_file", "retrieval_file", "ood_file"),
    "retrieve": ("retrieval_test_file", "retrieval_predictions_file"),
}


# Newer settings, as all runs were made before they existed.
EARLIER = {
    "fit": "crop",
    "interpolation": "bilinear",
    "crop_bottom": None,
    "weights": "",
    "backbone_learning_rate": None,
    "frozen_epochs": 0,
    "head": LINEAR,
    "sampling": NATURAL,
    "head_balance": PLAIN,
    "zero_init_last": None,
}


class NotDoneError(InputError):
    """Raised if a stage has to wait for an earlier one."""


def is_done(run: RunDirectory, stage: str) -> bool:
    """Return whether a stage has ended, its outputs exist, and its inputs are still the same.

    Raises:
        InputError: if a file of the run is damaged.
    """
    record = read_status(run).get(stage, {})
    has_outputs = all(getattr(run, name).is_file() for name in OUTPUTS[stage])
    if record.get("state") != "done" or not has_outputs:
        return False
    try:
        return record.get("inputs") == inputs_digest(run, stage)
    except NotDoneError:
        return False


def read_status(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """Read ``status.json``: the record of each stage that was started."""
    return read_json(run.status_file) if run.status_file.is_file() else {}


def inputs_digest(run: RunDirectory, stage: str) -> str:
    """Return the hash of a stage's inputs: settings, data and what earlier stages have chosen.

    Raises:
        NotDoneError: if an earlier stage is not done. The message says how to run it.
        InputError: if a file of the run is damaged.
    """
    return _digest(_inputs(run, stage))


def _inputs(run: RunDirectory, stage: str) -> dict[str, Any]:
    match stage:
        case "pretrain":
            reached = {"epochs_reached": trained_epochs(read_metrics(run))}
            return reached | _settings(run, IDENTITY, PRETRAIN)
        case "probe":
            _check_pretrained(run)
            return _settings(run, IDENTITY, PRETRAIN, PROBE)
        case "test":
            return {"selection": selection_digest(run)}
        case "table":
            _check_pretrained(run)
            return {
                **_settings(run, IDENTITY, PRETRAIN),
                "checkpoint": table_checkpoint(run),
                "neighbours": run.config.neighbours,
                "selection": selection_digest(run) if run.selection_file.is_file() else None,
            }
        case "retrieve":
            if not is_done(run, "table"):
                raise NotDoneError(
                    f"{run.path.name} has no look-up table; run notebook 05 or `thesis retrieve`"
                )
            return {"table": table_digest(run), "test_curve": _has_test_curve(run)}
    raise ValueError(stage)


def _settings(run: RunDirectory, *stages: str) -> dict[str, Any]:
    """Return the settings that affect some stages, and the fingerprint of the training data.

    Newer settings that are as they were before they existed are left out, so that the stages of
    earlier runs stay done.
    """
    settings = run.config.to_dict()
    names = [
        name
        for name in RunConfig.field_names(*stages)
        if name not in EARLIER or settings[name] != EARLIER[name]
    ]
    return {"data_fingerprint": trained_fingerprint(run), **{n: settings[n] for n in names}}


def _check_pretrained(run: RunDirectory) -> None:
    if not is_done(run, "pretrain"):
        raise NotDoneError(
            f"{run.path.name} is not trained to its last epoch ({run.config.epochs}); "
            "finish notebook 02 or `thesis pretrain` first"
        )


def selection_digest(run: RunDirectory) -> str:
    """Return the hash of ``selection.json``, the input of the final test.

    Raises:
        NotDoneError: if nothing has been selected yet.
    """
    digest = file_digest(run.selection_file)
    if digest is None:
        raise NotDoneError(
            f"{run.path.name} has no selection.json; run notebook 03 or `thesis probe` first"
        )
    return digest[:16]


def table_checkpoint(run: RunDirectory) -> int:
    """Return the epoch of the checkpoint whose features fill the look-up table.

    This is the configured one, else the selected one, or the last one if the data set has no val/.

    Raises:
        NotDoneError: if no checkpoint is configured or selected, although there is a val/.
    """
    if run.config.table_checkpoint is not None:
        return run.config.table_checkpoint
    if (find_data(run.config.data) / "val").is_dir() or run.selection_file.is_file():
        selection_digest(run)
        return read_json(run.selection_file)["checkpoint"]
    return run.config.epochs


def table_digest(run: RunDirectory) -> str:
    """Return the hash of ``table.json``, the input of the test of the look-up table.

    The time that the features took is left out: the same table made again is no other choice.
    """
    if not run.table_choice_file.is_file():
        return ""
    choice = read_json(run.table_choice_file)
    choice.pop("feature_seconds_per_image", None)
    return _digest(choice)


def _has_test_curve(run: RunDirectory) -> bool:
    """Return whether the test curve is wanted, or was made although it no longer is."""
    done = read_json(run.retrieval_test_file) if run.retrieval_test_file.is_file() else {}
    return run.config.test_curve or done.get("test_curve", False)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
