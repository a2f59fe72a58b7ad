"""Record how each stage of a run was made, and report its state."""

import contextlib
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

from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import STAGES, inputs_digest, is_done, read_status
from thesis_lib.system import machine
from thesis_lib.system.files import read_json, write_json
from thesis_lib.system.processes import is_alive

CLOCK_SECONDS = 60.0  # tolerance for a clock that was set back after the stage started


@contextlib.contextmanager
def recorded(run: RunDirectory, name: str, **facts: Any) -> Iterator[dict[str, Any]]:
    """Record a stage for the block: its provenance, and in ``status.json`` its state and inputs.

    Yields what the record will end with, where the block can set a ``state`` other than "done".

    Args:
        run: the run.
        name: name of the stage, a key of :data:`thesis_lib.runs.stages.OUTPUTS`.
        facts: more entries for the provenance, such as the data set's fingerprint.
    """
    entries = read_json(run.provenance_file) if run.provenance_file.is_file() else []
    write_json(run.provenance_file, [*entries, {"stage": name, **facts, **provenance()}])
    began = time.time()
    state = {"started": began, "host": socket.gethostname(), "pid": os.getpid()}
    state["job"] = os.environ.get("SLURM_JOB_ID")
    _write_state(run, name, state | {"state": "running"})
    ended: dict[str, Any] = {"state": "done"}
    try:
        yield ended
    except BaseException as error:
        message = f"{type(error).__name__}: {error}".split("\n")[0]
        ended = {
            "state": "failed" if isinstance(error, Exception) else "interrupted",
            "seconds": time.time() - began,
            "error": message,
        }
        _write_state(run, name, state | ended)
        raise
    ended |= {"seconds": time.time() - began, "inputs": inputs_digest(run, name)}
    _write_state(run, name, state | ended)


def add_facts(run: RunDirectory, **facts: Any) -> None:
    """Add facts to the provenance of the stage that is being recorded."""
    *before, entry = read_json(run.provenance_file)
    write_json(run.provenance_file, [*before, entry | facts])


def recorded_weights(run: RunDirectory) -> dict[str, Any]:
    """Return what was recorded about the weights that a run has started from; {} without any."""
    entries = read_json(run.provenance_file) if run.provenance_file.is_file() else []
    return next((entry["weights"] for entry in reversed(entries) if "weights" in entry), {})


def _write_state(run: RunDirectory, name: str, state: dict[str, Any]) -> None:
    write_json(run.status_file, read_status(run) | {name: state})


def stage_states(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """Return the state of each stage of STAGES.

    Returns:
        For each stage a dict with ``state`` ("done", "running", "failed", "interrupted" if its
        process is gone, or "missing"), ``seconds`` spent so far (None if unknown), ``error``
        (None unless it stopped with one) and ``job`` (Slurm's job id, None outside a job).
    """
    records = read_status(run)
    records.setdefault("retrieve", records.get("table", {}))  # `predict` makes the table, too
    return {name: _stage_state(run, name, records.get(name, {})) for name in STAGES}


def _stage_state(run: RunDirectory, name: str, record: dict[str, Any]) -> dict[str, Any]:
    state, seconds = record.get("state", "missing"), record.get("seconds")
    if state == "running":
        seconds = time.time() - record["started"]
        on_this_host = record["host"] == socket.gethostname()
        if on_this_host and not _is_running(record["pid"], record["started"]):
            state, seconds = "interrupted", None
    elif state == "done" and not is_done(run, name):  # its inputs have changed since
        state = "missing"
    if name == "pretrain" and state != "missing":
        spent = sum(row["seconds"] for row in read_metrics(run))  # over all starts
        seconds = None if math.isnan(spent) else spent  # NaN: unknown for an imported run
    recorded = {name: record.get(name) for name in ("error", "job")}
    return {"state": state, "seconds": seconds, **recorded}


def _is_running(pid: int, began: float) -> bool:
    """Return whether the process that began a stage still runs; a pid can be reused."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return is_alive(process) and process.create_time() < began + CLOCK_SECONDS
    return False


def provenance() -> dict[str, Any]:
    """Return the provenance of a result: time, command, commit, versions and hardware."""
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
            "cpus": machine.num_cores(),
            "memory_mib": machine.total_memory() // 2**20,
        },
    }


def code_commit() -> str | None:
    """Return the git commit, with ``-dirty`` if there are uncommitted changes; None outside git."""
    folder = str(Path(__file__).parent)
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None
