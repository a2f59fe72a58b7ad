"""Check which stages of a run are done.

A stage is done if its outputs exist and were made from its current inputs. This module only reads
small files, so that ``thesis status`` answers at once.
"""

import hashlib
import json
from typing import Any

from thesis_lib.config import IDENTITY, PRETRAIN, PROBE, RunConfig
from thesis_lib.errors import InputError
from thesis_lib.runs.artifacts import read_metrics, trained_epochs, trained_fingerprint
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import file_digest, read_json
from thesis_lib.system.paths import find_data

STAGES = ("pretrain", "probe", "test", "retrieve")


def is_pretrained(run: RunDirectory) -> bool:
    """Return whether pretraining has reached the last epoch."""
    reached = trained_epochs(read_metrics(run)) >= run.config.epochs
    return reached and trained_fingerprint(run) is not None


def probe_inputs(run: RunDirectory) -> dict[str, Any]:
    """Return the inputs of probing: the settings that affect it and the data's fingerprint.

    Raises:
        InputError: if the run is not trained to its last epoch.
    """
    return _settings(run, IDENTITY, PRETRAIN, PROBE)


def _settings(run: RunDirectory, *stages: str) -> dict[str, Any]:
    if not is_pretrained(run):
        raise InputError(
            f"{run.path.name} is not trained to its last epoch ({run.config.epochs}); "
            "finish notebook 02 or `thesis pretrain` first"
        )
    names = RunConfig.field_names(*stages)
    settings = {k: v for k, v in run.config.to_dict().items() if k in names}
    return {"data_fingerprint": trained_fingerprint(run), **settings}


def is_probed(run: RunDirectory) -> bool:
    """Return whether probing is done: its outputs exist and were made with these settings."""
    files = (run.selection_file, run.probe_file, run.probe_curves_file, run.head_file)
    if not is_pretrained(run) or not all(file.is_file() for file in files):
        return False
    return read_json(run.selection_file)["inputs"] == probe_inputs(run)


def selection_digest(run: RunDirectory) -> str:
    """Return the hash of ``selection.json``, the input of the final test.

    Raises:
        InputError: if nothing has been selected yet.
    """
    digest = file_digest(run.selection_file)
    if digest is None:
        raise InputError(
            f"{run.path.name} has no selection.json; run notebook 03 or `thesis probe` first"
        )
    return digest[:16]


def is_tested(run: RunDirectory) -> bool:
    """Return whether the final test is done: its outputs exist, for the current selection."""
    files = (run.selection_file, run.test_file, run.predictions_file, run.embedding_file)
    if not all(file.is_file() for file in (*files, run.calibration_file)):
        return False
    return read_json(run.test_file)["selection"] == selection_digest(run)


def table_checkpoint(run: RunDirectory) -> int:
    """Return the epoch of the checkpoint whose features fill the look-up table.

    This is the configured one, else the selected one, or the last one if the data set has no val/.

    Raises:
        InputError: if no checkpoint is configured or selected, although there is a val/.
    """
    if run.config.table_checkpoint is not None:
        return run.config.table_checkpoint
    if (find_data(run.config.data) / "val").is_dir() or run.selection_file.is_file():
        selection_digest(run)
        return read_json(run.selection_file)["checkpoint"]
    return run.config.epochs


def table_inputs(run: RunDirectory) -> dict[str, Any]:
    """Return the inputs of the look-up table and of the choice of its threshold.

    Raises:
        InputError: if the run is not trained to its last epoch, or no checkpoint is selected.
    """
    return {
        **_settings(run, IDENTITY, PRETRAIN),
        "checkpoint": table_checkpoint(run),
        "neighbours": run.config.neighbours,
        "selection": selection_digest(run) if run.selection_file.is_file() else None,
    }


def is_table_made(run: RunDirectory) -> bool:
    """Return whether the look-up table and its threshold were made from the current inputs."""
    files = (run.table_file, run.table_choice_file, run.retrieval_file, run.ood_file)
    if not is_pretrained(run) or not all(file.is_file() for file in files):
        return False
    return read_json(run.table_choice_file)["inputs"] == table_inputs(run)


def table_digest(run: RunDirectory) -> str:
    """Return the hash of ``table.json``, the input of the test of the look-up table.

    The time that the features took is left out: the same table made again is no other choice.
    """
    if not run.table_choice_file.is_file():
        return ""
    choice = read_json(run.table_choice_file)
    choice.pop("feature_seconds_per_image", None)
    return hashlib.sha256(json.dumps(choice, sort_keys=True).encode()).hexdigest()[:16]


def is_retrieved(run: RunDirectory) -> bool:
    """Return whether the current look-up table is tested.

    With ``test_curve``, the test must include the curve over all thresholds.
    """
    files = (run.retrieval_test_file, run.retrieval_predictions_file)
    if not all(file.is_file() for file in files) or not is_table_made(run):
        return False
    test = read_json(run.retrieval_test_file)
    has_curve = test["test_curve"] or not run.config.test_curve
    return test["table"] == table_digest(run) and has_curve


IS_DONE = dict(zip(STAGES, (is_pretrained, is_probed, is_tested, is_retrieved), strict=True))
