"""Kernels and runners that stop early: a notebook is done only if its last cell was executed.

Each fault has a control: without the protection, the notebook would be reported as done, or
processes would be left running.
"""

import contextlib
import gc
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.provisioning import LocalProvisioner

from tests.processes import MARK, processes, wait_until
from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.provenance import stage_states
from thesis_lib.system import signals
from thesis_lib.system.signals import EXIT_RESUMABLE, sigterm_raises
from thesis_lib.training import checkpoints
from thesis_lib.workbook import execution
from thesis_lib.workbook import grid as module
from thesis_lib.workbook.execution import Kernel, execute_notebook
from thesis_lib.workbook.grid import grid_configs, run_grid
from thesis_lib.workbook.parameters import notebook_settings
from thesis_lib.workbook.plan import plan_of
from thesis_lib.workbook.receipts import receipt_file
from thesis_lib.workbook.status import status_lines

SECONDS = 10  # within which all processes must have ended
FAULTS = {
    "kernel killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "kernel ended by SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "os._exit(0) in a cell": "os._exit(0)",
    "sys.exit(0) in a cell": "sys.exit(0)",
    "kernel frozen": "os.kill(os.getpid(), signal.SIGSTOP)",
    "kernel interrupted": "os.kill(os.getpid(), signal.SIGINT)",
    "error in a cell": "1 / 0",
}
KNOWN_TO_PAPERMILL = ("kernel interrupted", "error in a cell")
# Ignores signals and leaves them to its parent, as a loading worker does.
STUBBORN = """subprocess.Popen(["sh", "-c", "trap '' INT TERM; sleep 1000"])"""
IMPORTS = "import os, signal, subprocess, sys, time"


@pytest.fixture
def mark(monkeypatch):
    """Value of an environment variable that marks all processes started by the test."""
    monkeypatch.setenv(MARK, uuid.uuid4().hex)
    yield os.environ[MARK]
    for process in processes(os.environ[MARK]):
        process.kill()


def notebook(*cells, tag="parameters"):
    """Write a fake notebook 01 that writes its receipt; return execute_notebook's arguments."""
    config = RunConfig(data="data/made-up")
    receipt = receipt_file("01_data_stats", config)
    last = (
        f"os.makedirs({str(receipt.parent)!r}, exist_ok=True); open({str(receipt)!r}, 'w').close()"
    )
    sources = ["epochs = 80", IMPORTS, *cells, last]
    content = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, sources)])
    content.cells[0].metadata["tags"] = [tag]
    content.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(content, "01_data_stats.ipynb")
    return Path("01_data_stats.ipynb"), receipt.with_name("01_data_stats.ipynb"), {}, config


def completed(path):
    """Return whether papermill reports the notebook and all its cells as completed."""
    content = json.loads(path.read_text())
    states = [cell["metadata"].get("papermill", {}).get("status") for cell in content["cells"]]
    return set(states) == {"completed"} and not content["metadata"]["papermill"]["exception"]


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_a_kernel_is_never_reported_done(tmp_path, monkeypatch, mark, faults, fault):
    monkeypatch.chdir(tmp_path)
    allowed = SECONDS
    if fault == "kernel frozen":
        monkeypatch.setattr(execution, "FROZEN_SECONDS", 3)
        allowed += 2 * execution.FROZEN_SECONDS
    cell = f"{STUBBORN}\nopen('began', 'w').close()\n{FAULTS[fault]}\ntime.sleep(60)"
    source, executed, parameters, config = notebook(cell)
    executed.parent.mkdir(parents=True)
    for old in (executed, receipt_file("01_data_stats", config)):  # from an earlier execution
        old.write_text("{}")
    said, run = [], execution._run
    with monkeypatch.context() as patched:
        patched.setattr(execution, "_run", lambda *given: said.append(run(*given)) or said[0])
        reason = execute_notebook(source, executed, parameters, config)
    failed = executed.with_name("01_data_stats.failed.ipynb")
    assert reason.endswith(f"(see {failed.relative_to(tmp_path)})") and "\n" not in reason
    assert not executed.exists() and not receipt_file("01_data_stats", config).exists()
    assert time.time() - Path("began").stat().st_mtime < allowed
    assert wait_until(lambda: processes(mark) == [], 2)  # a kill takes effect a moment later

    # Control: papermill has raised nothing, or reports the notebook as completed. Without
    # receipts, the notebook would count as done.
    believed = said == [None] or completed(failed)
    assert believed == (fault not in KNOWN_TO_PAPERMILL)
    with monkeypatch.context() as patched:
        record = shutil.copy(failed, "record.ipynb")
        patched.setattr(
            execution, "_run", lambda _, output, __: shutil.copy(record, output) and None
        )
        assert "ended before its last cell" in execute_notebook(*notebook())
        patched.setattr(execution, "has_receipt", lambda *_: True)
        assert execute_notebook(*notebook()) is None and executed.is_file()
    faults(fault, 1, 1)


def test_the_kernel_is_that_of_this_interpreter(tmp_path, monkeypatch, mark, faults):
    """Even if another kernel called python3 comes first on Jupyter's search path."""
    monkeypatch.chdir(tmp_path)
    other = {"argv": ["false"], "display_name": "another Python", "language": "python"}
    (tmp_path / "jupyter" / "kernels" / "python3").mkdir(parents=True)
    (tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json").write_text(json.dumps(other))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    found = KernelSpecManager().get_kernel_spec("python3")
    assert found.argv == ["false"]  # control: Jupyter would start this one
    given = notebook(f"import thesis_lib; assert sys.executable == {sys.executable!r}")
    assert execute_notebook(*given) is None
    faults("another kernel of the same name", 1, 1)


def test_sound_notebook_is_reported_done(tmp_path, monkeypatch, mark):
    """Control: without a fault, the fake notebook is reported as done."""
    monkeypatch.chdir(tmp_path)
    source, executed, parameters, config = notebook("print('all is well')")
    failed = executed.with_name("01_data_stats.failed.ipynb")
    failed.parent.mkdir(parents=True)
    failed.write_text("{}")
    assert execute_notebook(source, executed, parameters, config) is None
    assert executed.is_file() and not failed.exists()


def test_what_outlives_its_kernel_is_killed_with_its_process_group(tmp_path, monkeypatch, mark):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Kernel, "kill", lambda kernel: None)
    assert execute_notebook(*notebook(f"{STUBBORN}\n{FAULTS['kernel killed']}"))
    assert processes(mark) != []  # without the kill, a process is left


def test_notebook_without_parameters_cell_is_refused_before_a_kernel_starts(
    workbook, monkeypatch, mark, faults
):
    untagged = notebook(tag="other")[0].rename("untagged.ipynb")
    original = module.notebook_path
    for name in ("01_data_stats", "02_supcon_pretraining", "06_thesis_tables"):
        monkeypatch.setattr(
            module,
            "notebook_path",
            lambda n, name=name: untagged if n.name == name else original(n),
        )
        monkeypatch.setattr(module, "execute", lambda task: pytest.fail("executed"))
        with pytest.raises(InputError, match="has no cell with the tag 'parameters'"):
            run_grid(
                grid_configs(
                    {
                        "data": "data/tiny",
                        "image_size": 32,
                        "backbone": ["lenet5"],
                        "batch_size": [8],
                    }
                )
            )
    assert not (workbook / "runs").exists()

    # Control: papermill runs it with the notebook's own values and only warns about unknown names.
    papermill.execute_notebook(untagged, "out.ipynb", {"epochs": 3, "epoch": 4}, progress_bar=False)
    content = nbformat.read("out.ipynb", 4)
    assert "epochs = 3" in content.cells[0].source and content.cells[1].source == "epochs = 80"
    with pytest.raises(InputError, match="unknown setting 'epoch'"):
        notebook_settings({"epochs": 3, "epoch": 4})
    faults("notebook without parameters cell", 3, 3)
    faults("parameter that no notebook knows", 1, 1)


def test_frozen_kernel_would_be_waited_for_without_its_heartbeat(tmp_path, monkeypatch, mark):
    monkeypatch.chdir(tmp_path)
    given = notebook(f"open('began', 'w').close()\n{FAULTS['kernel frozen']}")
    assert execution.FROZEN_SECONDS > 30  # the default timeout, not reached here, is the control
    waiting = threading.Thread(target=execute_notebook, args=given)
    waiting.start()
    assert wait_until(Path("began").is_file, 30)
    waiting.join(SECONDS)
    assert waiting.is_alive()
    for process in processes(mark):
        process.kill()
    waiting.join(SECONDS)
    assert not waiting.is_alive()


def test_executions_leave_neither_threads_nor_open_files_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = []
    for _ in range(4):
        assert execute_notebook(*notebook("print('here')")) is None
        gc.collect()  # collect cyclic garbage of earlier tests first
        held.append((threading.active_count(), psutil.Process().num_fds()))
    assert held[1:] == held[:1] * 3  # the first execution makes the shared event loop


@pytest.mark.parametrize("protected", [True, False])
def test_sigterm_amid_papermills_own_work_is_obeyed(tmp_path, monkeypatch, mark, protected):
    """asyncio holds back exceptions that a signal handler raises in a task, except SystemExit."""
    monkeypatch.chdir(tmp_path)
    error = signals.Terminated
    if not protected:
        error = type("Other", (BaseException,), {})
        monkeypatch.setattr(signals, "Terminated", error)
    sent, poll = [], LocalProvisioner.poll

    async def signal_then_poll(provisioner):
        if Path("began").is_file() and not sent:
            sent.append(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        return await poll(provisioner)

    monkeypatch.setattr(LocalProvisioner, "poll", signal_then_poll)
    given = notebook("open('began', 'w').close()\ntime.sleep(5)")
    with sigterm_raises(), pytest.raises(error) if protected else contextlib.nullcontext():
        assert execute_notebook(*given) is None and not protected
    assert len(sent) == 1 and processes(mark) == []


RUNNER = """
from functools import partialmethod
from pathlib import Path
from thesis_lib.config import RunConfig
from thesis_lib.workbook.execution import Kernel, execute_notebook
from thesis_lib.system.signals import sigterm_raises
{without}
with sigterm_raises():
    execute_notebook(Path("01_data_stats.ipynb"), Path("out.ipynb"), {{}}, RunConfig())
"""
TRAINING = """
from thesis_lib.system.signals import deferred_signals
with deferred_signals() as deferral:
    open("began", "w").close()
    while deferral.signal is None:
        time.sleep(0.1)
    time.sleep(1)
    open("saved", "w").close()
"""


@pytest.mark.parametrize(
    ("number", "without", "saved", "gone"),
    [
        (signal.SIGTERM, "", True, True),
        (signal.SIGTERM, "Kernel.shutdown_kernel = Kernel.cleanup_resources", False, True),
        (signal.SIGKILL, "", False, True),
        (
            signal.SIGKILL,
            "Kernel.start_kernel = partialmethod(Kernel.start_kernel, independent=True)",
            False,
            False,
        ),
    ],
    ids=["SIGTERM", "SIGTERM, control", "SIGKILL", "SIGKILL, control"],
)
def test_kernel_goes_with_its_runner(tmp_path, monkeypatch, mark, number, without, saved, gone):
    """After SIGTERM it finishes its step and saves; the controls lack the code that does this."""
    monkeypatch.chdir(tmp_path)
    notebook(TRAINING)
    runner = subprocess.Popen([sys.executable, "-c", RUNNER.format(without=without)])
    assert wait_until(Path("began").is_file, 60)
    runner.send_signal(number)
    assert wait_until(lambda: not processes(mark), SECONDS if gone else SECONDS / 2) == gone
    ended = EXIT_RESUMABLE if number == signal.SIGTERM else -number
    assert runner.wait() == ended and Path("saved").is_file() == saved


class Life:
    """One `thesis run` over a grid that can be stopped by a signal."""

    def __init__(self, folder, *options):
        self.printed = folder / f"printed-{len(list(folder.glob('printed-*')))}.txt"
        command = [sys.executable, "-um", "thesis_lib", "run", "--data", "data/tiny"]
        with open(self.printed, "w") as file:
            self.process = subprocess.Popen([*command, *options], stdout=file, stderr=file)

    @property
    def text(self):
        return self.printed.read_text()

    @property
    def epochs(self):
        """The printed epochs, each with its run."""
        found, label = [], None
        for line in self.text.splitlines():
            label = line[3:] if line.startswith(">> ") else label
            if line.startswith("epoch "):
                found.append((label, int(re.match(r"epoch (\d+)", line)[1])))
        return found

    def end(self, number=None):
        """Send a signal, if given, wait for the process to end and return its exit status."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(240)


OPTIONS = (
    *("--backbone", "lenet5", "--image-size", "32", "--learning-rate", "0.05"),
    *("--head-epochs", "5", "--head-views", "2"),
)


def test_run_goes_on_where_a_signal_to_it_has_ended_it(workbook, mark, faults):
    shutil.rmtree("data/tiny/val")  # so 03 and 04 are left out; the grid below includes them
    options = (*OPTIONS, "--batch-size", "8", "--epochs", "100", "--save-every", "50")
    options += ("--rolling-minutes", "0.005", "--workers", "2")
    settings = {"data": "data/tiny", "backbone": "lenet5", "batch_size": 8}
    run = RunDirectory(RunConfig(**settings, image_size=32, epochs=100))

    first = Life(workbook, *options)
    assert wait_until(lambda: len(first.epochs) > 20, 60)
    assert first.end(signal.SIGTERM) == EXIT_RESUMABLE
    assert wait_until(lambda: not processes(mark), SECONDS)
    assert "Traceback" not in first.text and "ok tiny/lenet5" not in first.text
    assert stage_states(run)["pretrain"]["state"] == "interrupted"
    trained = len(read_metrics(run))
    assert trained >= len(first.epochs) > 20

    second = Life(workbook, *options)
    assert wait_until(lambda: len(second.epochs) > 40, 60)
    second.end(signal.SIGKILL)
    assert wait_until(lambda: not processes(mark), SECONDS)
    assert second.epochs[0][1] == trained + 1 and "ok " not in second.text
    assert stage_states(run)["pretrain"]["state"] == "interrupted"
    position = checkpoints.load(run.last_checkpoint)["position"]
    assert position["epoch"] > trained + 20

    last = Life(workbook, *options)
    assert last.end() == 0 and last.epochs[0][1] == position["epoch"]
    assert last.text.count("ok tiny") == 3 and "tiny: 01_data_stats: done already" in last.text
    assert "done: 01_data_stats, 06_thesis_tables" in status_lines("tiny")[0]
    assert stage_states(RunDirectory.open(run.path))["pretrain"]["state"] == "done"
    faults("SIGTERM to `thesis run`", 1, 1)
    faults("SIGKILL of `thesis run`", 1, 1)


def test_grid_that_is_killed_ten_times_does_everything_once(workbook, mark, faults):
    options = (*OPTIONS, "--batch-size", "8", "16", "--epochs", "16", "--save-every", "1")
    choose, lives = random.Random(9), []
    for number in [signal.SIGKILL, signal.SIGTERM] * 5:
        life = Life(workbook, *options)
        lives.append(life)
        notebooks, seconds = choose.choice([1, 1, 2]), choose.uniform(0, 8)
        assert wait_until(lambda life=life, n=notebooks: life.text.count(">> ") >= n, 240)
        time.sleep(seconds)
        assert life.end(number) == (EXIT_RESUMABLE if number == signal.SIGTERM else -number)
    lives.append(Life(workbook, *options))
    assert lives[-1].end() == 0
    assert wait_until(lambda: not processes(mark), SECONDS)

    runs = [RunDirectory.open(file.parent) for file in workbook.glob("runs/tiny/*/config.json")]
    tasks = plan_of([run.config for run in runs]).tasks
    assert len(tasks) == 10 and all(task.is_done() for task in tasks)
    again = Life(workbook, *options)
    assert again.end() == 0 and again.text.count("done already") == 10
    lines = [line for life in lives for line in life.text.splitlines()]
    for task in tasks:
        ends = [number for number, line in enumerate(lines) if line.startswith(f"ok {task.label}:")]
        assert len(ends) <= 1 and f">> {task.label}" not in lines[(ends or [len(lines)])[0] :]
    epochs = [epoch for life in lives for epoch in life.epochs]
    assert len(epochs) == len(set(epochs))

    # Control: without receipts, no notebook counts as done.
    for task in tasks:
        receipt_file(task.notebook.name, task.config).unlink()
    assert not any(task.is_done() for task in tasks)
    faults("grid killed at a random point", 10, 10)
