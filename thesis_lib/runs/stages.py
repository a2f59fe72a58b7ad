"""The stages of a run: which are done, held against their inputs; states and provenance.

A stage is done when its outputs are there and were made from its inputs as they are now. This
module reads small files alone, so that ``thesis status`` answers at once.
"""

import contextlib
import csv
import math
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from thesis_lib.config import IDENTITY, PRETRAIN, PROBE, InputError, RunConfig
from thesis_lib.runs.directory import RunDirectory, find_data
from thesis_lib.system.files import file_digest, read_json, write_json
from thesis_lib.system.processes import is_alive

METRICS_COLUMNS = (
    *("epoch", "loss", "learning_rate", "seconds", "images_per_second", "peak_memory_mib"),
)
CLOCK_SECONDS = 60.0  # by which the clock may have been put back since
STAGES = ("pretrain", "probe", "test", "retrieve")


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
    files = (run.table_file, run.table_choice_file, run.retrieval_file, run.novelty_file)
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


@contextlib.contextmanager
def stage(run: RunDirectory, name: str, **facts: Any) -> Iterator[None]:
    """Note in ``status.json`` that a stage runs, has failed or is done, and its provenance.

    Args:
        run: the run that it is a stage of.
        name: one of STAGES.
        facts: what else provenance should keep, such as the data set's fingerprint.
    """
    entries = read_json(run.provenance_file) if run.provenance_file.is_file() else []
    write_json(run.provenance_file, [*entries, {"stage": name, **facts, **provenance()}])
    began = time.time()
    state = {"started": began, "host": socket.gethostname(), "pid": os.getpid()}
    state["job"] = os.environ.get("SLURM_JOB_ID")
    _write_state(run, name, state | {"state": "running"})
    try:
        yield
    except BaseException as error:
        message = f"{type(error).__name__}: {error}".split("\n")[0]
        ended = {
            "state": "failed" if isinstance(error, Exception) else "interrupted",
            "seconds": time.time() - began,
            "error": message,
        }
        _write_state(run, name, state | ended)
        raise
    _write_state(run, name, state | {"state": "done", "seconds": time.time() - began})


def _write_state(run: RunDirectory, name: str, state: dict[str, Any]) -> None:
    states = read_json(run.status_file) if run.status_file.is_file() else {}
    write_json(run.status_file, states | {name: state})


def stage_states(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """The state of each stage of STAGES.

    Returns:
        ``state`` ("done", "running", "failed", "interrupted": its process is gone, or
        "missing"), ``seconds`` so far (None if never run), ``error`` where it failed, ``job``,
        Slurm's id, where it was begun in one.
    """
    noted = read_json(run.status_file) if run.status_file.is_file() else {}
    return {name: _stage_state(run, name, noted.get(name, {})) for name in STAGES}


def _stage_state(run: RunDirectory, name: str, noted: dict[str, Any]) -> dict[str, Any]:
    state, seconds = noted.get("state", "missing"), noted.get("seconds")
    if state == "running":
        seconds = time.time() - noted["started"]
        here = noted["host"] == socket.gethostname()
        if here and not _goes_on(noted["pid"], noted["started"]):
            state, seconds = "interrupted", None
    elif IS_DONE[name](run):
        state = "done"
    elif state == "done":  # its inputs have changed since
        state = "missing"
    if name == "pretrain" and state != "missing":
        spent = sum(row["seconds"] for row in read_metrics(run))  # over all its lives
        seconds = None if math.isnan(spent) else spent  # of an imported run nobody knows
    told = {name: noted.get(name) for name in ("error", "job")}
    return {"state": state, "seconds": seconds, **told}


def _goes_on(pid: int, began: float) -> bool:
    """Whether the process that began a stage is still there, and not a later one of its number."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return is_alive(process) and process.create_time() < began + CLOCK_SECONDS
    return False


def provenance() -> dict[str, Any]:
    """What produced a result: when, command, code, versions and hardware."""
    packages = ("torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn", "pandas")
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": os.environ.get("THESIS_COMMAND", " ".join(sys.argv)),
        "git_commit": code_commit(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("thesis-workbook", *packages)},
        "hardware": {
            "host": socket.gethostname(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "memory_mib": psutil.virtual_memory().total // 2**20,
        },
    }


def code_commit() -> str | None:
    """The commit of the code, with ``-dirty`` where the tree has changes; None outside git."""
    folder = str(Path(__file__).parent)
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None
