"""The stages of a run: which are done, held against their inputs; states and provenance.

A stage is done when its outputs are there and were made from its inputs as they are now. This
module reads small files alone, so that ``thesis status`` answers at once.
"""

from typing import Any

from thesis_lib.config import IDENTITY, PRETRAIN, PROBE, RunConfig
from thesis_lib.errors import InputError
from thesis_lib.runs.artifacts import read_metrics, trained_epochs, trained_fingerprint
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import file_digest, read_json
from thesis_lib.system.paths import find_data

STAGES = ("pretrain", "probe", "test", "retrieve")


def is_pretrained(run: RunDirectory) -> bool:
    """Whether the run's pretraining has reached its last epoch."""
    reached = trained_epochs(read_metrics(run)) >= run.config.epochs
    return reached and trained_fingerprint(run) is not None


def probe_inputs(run: RunDirectory) -> dict[str, Any]:
    """What a selection depends on: the settings that shape it, and the data's fingerprint.

    Raises:
        InputError: where the run is not trained to its end.
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
    """Whether ``selection.json`` and what belongs to it were made with the run's settings."""
    files = (run.selection_file, run.probe_file, run.probe_curves_file, run.head_file)
    if not is_pretrained(run) or not all(file.is_file() for file in files):
        return False
    selection = read_json(run.selection_file)
    # Selections of earlier versions lack the temperature, which the final test needs.
    return selection["inputs"] == probe_inputs(run) and "temperature" in selection


def selection_digest(run: RunDirectory) -> str:
    """Hash of ``selection.json``: what the final test depends on.

    Raises:
        InputError: where nothing has been selected yet.
    """
    digest = file_digest(run.selection_file)
    if digest is None:
        raise InputError(
            f"{run.path.name} has no selection.json; run notebook 03 or `thesis probe` first"
        )
    return digest[:16]


def is_tested(run: RunDirectory) -> bool:
    """Whether ``test.json`` was made from the selection that is on disk."""
    files = (run.selection_file, run.test_file, run.predictions_file, run.embedding_file)
    if not all(file.is_file() for file in (*files, run.calibration_file)):
        return False
    return read_json(run.test_file)["selection"] == selection_digest(run)


def table_checkpoint(run: RunDirectory) -> int:
    """The checkpoint whose features fill the run's look-up table.

    Raises:
        InputError: where none is named, and nothing has been selected although there is a val/.
    """
    if run.config.table_checkpoint is not None:
        return run.config.table_checkpoint
    if (find_data(run.config.data) / "val").is_dir() or run.selection_file.is_file():
        selection_digest(run)
        return read_json(run.selection_file)["checkpoint"]
    return run.config.epochs


def table_inputs(run: RunDirectory) -> dict[str, Any]:
    """What a look-up table and the choice of its threshold depend on.

    Raises:
        InputError: where the run is not trained to its end, or there is no selection to go by.
    """
    return {
        **_settings(run, IDENTITY, PRETRAIN),
        "checkpoint": table_checkpoint(run),
        "neighbours": run.config.neighbours,
        "selection": selection_digest(run) if run.selection_file.is_file() else None,
    }


def is_table_made(run: RunDirectory) -> bool:
    """Whether ``table.safetensors`` and the choice of its threshold are of the run as it is."""
    files = (run.table_file, run.table_choice_file, run.retrieval_file, run.ood_file)
    if not is_pretrained(run) or not all(file.is_file() for file in files):
        return False
    return read_json(run.table_choice_file)["inputs"] == table_inputs(run)


def table_digest(run: RunDirectory) -> str:
    """Hash of ``table.json``: what the test of the table depends on."""
    return (file_digest(run.table_choice_file) or "")[:16]


def is_retrieved(run: RunDirectory) -> bool:
    """Whether ``retrieval.json`` is of the table as it is, and has the curve if that is asked."""
    files = (run.retrieval_test_file, run.retrieval_predictions_file)
    if not all(file.is_file() for file in files) or not is_table_made(run):
        return False
    test = read_json(run.retrieval_test_file)
    has_curve = test["test_curve"] or not run.config.test_curve
    return test["table"] == table_digest(run) and has_curve


IS_DONE = dict(zip(STAGES, (is_pretrained, is_probed, is_tested, is_retrieved), strict=True))
