"""`thesis run --slurm` on a real one-node Slurm: interrupted jobs lose nothing."""

import contextlib
import io
import re
import subprocess
import time

import pytest
import torch

from tests.conftest import write_classes
from tests.processes import wait_until
from thesis_lib.cli.command_line import main
from thesis_lib.config import RunConfig
from thesis_lib.data.splits import split_dataset
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.testing import final_test
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.training import checkpoints
from thesis_lib.training.pretraining import pretrain
from thesis_lib.workbook import slurm_queue
from thesis_lib.workbook.status import status_lines

from .one_node import can_start, one_node

pytestmark = pytest.mark.skipif(not can_start(), reason="needs slurm-wlm, munge and root")
WAIT = 900  # seconds: a notebook starts in 5 s or in 60, depending on the machine and its load
COMMON = {
    "data": "data/tiny",
    "backbone": "lenet5",
    "batch_size": 8,
    "image_size": 32,
    "learning_rate": 0.05,
    "head_epochs": 5,
    "head_views": 2,
    "save_every": 100,
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A workbook with a valid and a broken data set, and a running Slurm."""
    root = tmp_path_factory.mktemp("workbook")
    state = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(root)
        write_classes(root / "classes")
        for name in ("tiny", "broken"):
            split_dataset(root / "classes", root / "data" / name, copy=True)
        image = next((root / "data" / "broken" / "train").glob("*/*.png"))
        image.write_bytes(image.read_bytes()[:50])
        with one_node(state) as found:
            for name, value in found.items():
                patched.setenv(name, value)
            yield root


def submit(*more, batch_sizes=(8,), **settings):
    """Submit a grid to Slurm; return what was printed."""
    settings = {**COMMON, **settings}
    del settings["batch_size"]
    options = ["--cpus", "1", *more, "--batch-size", *map(str, batch_sizes)]
    options += [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["run", "--slurm", *options]) == 0
    return printed.getvalue()


def run_of(**settings):
    return RunDirectory(RunConfig(**{**COMMON, **settings}))


def job_of(run):
    return slurm_queue.noted_job(run.path, slurm_queue.RUN).id


def log_of(folder, job):
    file = slurm_queue.slurm_folder(folder) / f"{job}_0_log.out"
    return file.read_text() if file.is_file() else ""


def told(job):
    """Return a job's state, number of restarts and exit code from scontrol."""
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True).stdout
    return dict(re.findall(r"(JobState|Restarts|ExitCode)=(\S+)", shown))


def in_queue():
    return set(slurm_queue.read_queue())


def is_training(run, epochs=5):
    return wait_until(lambda: len(read_metrics(run)) > epochs, WAIT)


def without_interruption(run, folder):
    """Train the same run without interruption in another folder."""
    folder.mkdir()
    (folder / "data").symlink_to(run.path.parents[2] / "data")
    with contextlib.chdir(folder):
        return pretrain(run.config.updated(workers=0))


def assert_same_training(run, other):
    weights = [checkpoints.load(r.last_checkpoint)["model"] for r in (run, other)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    losses = [[row["loss"] for row in read_metrics(r)] for r in (run, other)]
    assert losses[0] == losses[1]


def test_a_grid_whose_jobs_are_preempted_ends_with_the_same_bits(cluster, tmp_path):
    asked = {"epochs": 80, "save_every": 40, "batch_sizes": (8, 16)}
    assert "4 jobs submitted" in submit(**asked)
    runs = [run_of(epochs=80, save_every=40, batch_size=size) for size in (8, 16)]
    again = submit(**asked)
    assert "0 jobs submitted" in again and again.count(" already") == 4
    jobs = [job_of(run) for run in runs]
    assert is_training(runs[0])
    assert "running 0:" in status_lines()[2] and "06 pending (Dependency)" in status_lines()[0]
    subprocess.run(["scontrol", "requeue", jobs[0]], check=True)  # a preemption
    assert is_training(runs[1])
    subprocess.run(["scancel", "--signal=TERM", jobs[1]], check=True)  # the job requeues itself
    for job in jobs:
        assert wait_until(lambda job=job: told(job)["Restarts"] == "1", WAIT)
    whole = [without_interruption(run, tmp_path / run.path.name) for run in runs]
    with contextlib.chdir(tmp_path / runs[0].path.name):
        probe_checkpoints(whole[0])
        final_test(whole[0])
    assert wait_until(lambda: not in_queue(), WAIT)

    for run, other, job in zip(runs, whole, jobs, strict=True):
        assert_same_training(run, other)
        log = log_of(run.path, job)
        assert f"job {job} on" in log and "start 2" in log and "resuming from" in log
        assert told(job)["JobState"] == "COMPLETED"
    assert "requeued to resume from here" in log_of(runs[1].path, jobs[1])
    assert "requeued" not in log_of(runs[0].path, jobs[0])
    assert runs[0].predictions_file.read_bytes() == whole[0].predictions_file.read_bytes()
    assert "done: 01_data_stats, 06_thesis_tables" in status_lines("tiny")[0]
    assert "0 jobs submitted" in submit(**asked)


@pytest.fixture(scope="module")
def slots(cluster):
    """A run that needs several jobs of two minutes each; it runs while other tests do.

    Timed by CPU, so that it needs more than one job however busy the machine was meanwhile.
    """
    began = time.process_time()
    pretrain(RunConfig(**{**COMMON, "epochs": 40, "tag": "timed"}))
    epochs = round(40 * 120 / (time.process_time() - began))
    asked = {"epochs": epochs, "tag": "slots", "workers": 1}  # the worker receives signals, too
    submit("--time", "00:02:00", **asked)
    return run_of(**asked)


def test_a_cancelled_job_has_saved_and_is_not_requeued(cluster, slots):
    submit(epochs=100_000, tag="cancelled")
    run = run_of(epochs=100_000, tag="cancelled")
    job = job_of(run)
    assert is_training(run)
    subprocess.run(["scancel", job], check=True)
    assert wait_until(lambda: job not in in_queue(), WAIT)
    assert told(job)["JobState"] == "CANCELLED" and told(job)["Restarts"] == "0"
    assert "stopped by SIGTERM, because Slurm ends or restarts this job" in log_of(run.path, job)
    position = checkpoints.load(run.last_checkpoint)["position"]
    assert position["epoch"] >= len(read_metrics(run)) > 5
    row = next(line for line in status_lines() if run.path.name in line)
    assert "interrupted at" in row


def test_a_signal_that_comes_before_anybody_listens_is_no_failure(cluster, slots):
    submit(epochs=10, tag="early")
    job = job_of(run_of(epochs=10, tag="early"))

    def restarted():
        if told(job)["JobState"] == "RUNNING":
            subprocess.run(["scancel", "--signal=USR2", job], capture_output=True)
        return told(job)["Restarts"] == "1"

    assert wait_until(restarted, WAIT)
    subprocess.run(["scancel", job], check=True)


def test_a_failed_notebook_is_a_failed_job_and_not_requeued(cluster, slots):
    submit(data="data/broken", epochs=10)
    run = run_of(data="data/broken", epochs=10)
    job = job_of(run)
    tables = slurm_queue.noted_job(run.path.parent, slurm_queue.THESIS_TABLES).id
    assert wait_until(lambda: job not in in_queue(), WAIT)
    assert told(job) == {"JobState": "FAILED", "Restarts": "0", "ExitCode": "1:0"}
    log = log_of(run.path, job)
    reason = next(line for line in log.splitlines() if line.startswith("thesis: error: "))
    assert "02_supcon_pretraining: InputError: cannot read the image" in reason
    assert "Traceback" not in log
    assert wait_until(lambda: told(tables)["JobState"] == "RUNNING", WAIT)  # despite the failure
    subprocess.run(["scancel", tables], check=True)


def test_a_run_goes_on_over_any_number_of_slots(cluster, slots, tmp_path):
    whole = without_interruption(slots, tmp_path / "whole")
    job = job_of(slots)
    assert wait_until(lambda: "ok tiny" in log_of(slots.path, job), WAIT)
    assert int(told(job)["Restarts"]) >= 1
    assert "stopped by SIGUSR2; requeued" in log_of(slots.path, job)
    assert_same_training(slots, whole)
