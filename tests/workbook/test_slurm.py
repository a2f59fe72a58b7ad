"""A grid on a fake Slurm: which jobs are submitted, and how a job reacts to signals."""

import getpass
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from thesis_lib.cli.command_line import main
from thesis_lib.errors import InputError
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.signals import EXIT_RESUMABLE, Terminated, deferred_signals, sigterm_raises
from thesis_lib.workbook import slurm as module
from thesis_lib.workbook import slurm_job, slurm_queue
from thesis_lib.workbook.grid import grid_configs
from thesis_lib.workbook.plan import Task
from thesis_lib.workbook.resources import Resources, time_limit
from thesis_lib.workbook.slurm import submit_grid
from thesis_lib.workbook.status import status_lines

SETTINGS = {"data": "data/tiny", "image_size": 32, "epochs": 3, "save_every": 1}
OPTIONS = ("--data", "data/tiny", "--image-size", "32", "--epochs", "3", "--backbone", "lenet5")
COMMANDS = {
    "sbatch": """
        [ -f refuse ] && { cat refuse >&2; exit 1; }
        [ -f odd ] && { echo "queued on cluster b"; exit 0; }
        env > environment
        id=$(( $(ls submitted | wc -l) + 1 )); cp "$1" submitted/$id
        echo "Submitted batch job $id" """,
    "srun": "exit 1",
    "squeue": """
        echo asked >> asked
        [ -f squeue.txt ] || { echo down >&2; exit 1; }
        cat squeue.txt""",
    "scontrol": """
        echo "$@" >> scontrol.txt
        [ "$1" = show ] && echo "   JobState=$(cat state) Reason=None"; exit 0""",
}


@pytest.fixture
def slurm(workbook, monkeypatch):
    """Put fake Slurm commands on PATH, which record their input in the workbook."""
    (workbook / "bin").mkdir()
    (workbook / "submitted").mkdir()
    for name, script in COMMANDS.items():
        path = workbook / "bin" / name
        path.write_text(f"#!/bin/sh\ncd {workbook}\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{workbook / 'bin'}:{os.environ['PATH']}")
    queue(workbook)
    return workbook


def queue(workbook, *lines):
    (workbook / "squeue.txt").write_text("".join(f"{line}\n" for line in lines))


def submitted(workbook):
    """Return the sbatch options of each submitted job by its id."""
    found = {}
    for script in sorted((workbook / "submitted").iterdir(), key=lambda path: int(path.name)):
        flags = [
            line.removeprefix("#SBATCH --").strip()
            for line in script.read_text().splitlines()
            if line.startswith("#SBATCH")
        ]
        pairs = (flag.partition("=") for flag in flags)
        found[script.name] = {name: value.strip("'") for name, _, value in pairs}
    return found


def configs():
    return grid_configs({**SETTINGS, "backbone": ["lenet5"], "batch_size": [8, 16]})


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        *[("90", 90), ("1:30", 2), ("08:00:00", 480), ("0:00:01", 1)],
        *[("2-00", 2880), ("1-12:30", 2190), ("1-00:00:30", 1441)],
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(text, minutes):
    assert time_limit(text) == minutes


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"time": "8h"}, "--time must be a limit such as 08:00:00"),
        ({"time": "00:00:00"}, "--time must be above zero"),
        ({"mem": "lots"}, "--mem must be a size such as 32G"),
        ({"gpus": 0}, "--gpus must be at least 1"),
        ({"sbatch": ["output=x"]}, "--sbatch output: the jobs set this option themselves"),
        ({"sbatch": ["--no_requeue"]}, "--sbatch no-requeue: the jobs set this option themselves"),
        ({"sbatch": ["signal=TERM@10"]}, "--sbatch signal: the jobs set this option themselves"),
        ({"sbatch": ["cpus_per_task=8"]}, "--sbatch cpus-per-task: use the option --cpus instead"),
        ({"sbatch": ["=x"]}, "--sbatch needs NAME=VALUE"),
    ],
)
def test_what_slurm_would_not_take_is_refused(asked, message):
    with pytest.raises(InputError, match=message):
        Resources(**asked)


def test_a_grid_is_a_job_for_01_one_a_run_and_one_for_06(slurm, capsys):
    sbatch = ["account=plankton", "qos=long", "exclusive"]
    submit_grid(configs(), Resources("gpu", 2, 4, "08:00:00", "32G", "small", sbatch))
    jobs = submitted(slurm)
    names = [jobs[i]["job-name"] for i in "1234"]
    assert names == ["tiny-01", "lenet5-bs8-seed42", "lenet5-bs16-seed42", "tiny-06"]
    waits = [jobs[i].get("dependency") for i in "1234"]
    assert waits == [None, "afterany:1", "afterany:1", "afterany:1:2:3"]
    assert [jobs[i].get("gpus-per-node") for i in "1234"] == [None, "2", "2", None]
    assert [jobs[i]["partition"] for i in "1234"] == ["small", "gpu", "gpu", "small"]
    for job in jobs.values():
        assert job.items() >= {"cpus-per-task": "4", "mem": "32G"}.items()
        assert job.items() >= {"time": "480", "signal": "USR2@120", "open-mode": "append"}.items()
        assert job.items() >= {"account": "plankton", "qos": "long", "requeue": ""}.items()
        assert "exclusive" in job and "wckey" not in job
    run = RunDirectory(configs()[0])
    assert jobs["2"]["output"] == f"{run.path}/slurm/%j_0_log.out"
    assert "--open-mode=append" in (slurm / "submitted" / "2").read_text()
    assert json.loads((run.path / "slurm" / "job.json").read_text())["id"] == "2"
    assert not list(slurm.rglob("*.ipynb")) and "4 jobs submitted" in capsys.readouterr().out


def test_short_slots_are_given_shorter_notice():
    settings = Resources(time="1").parameters("job", "name", [])["additional_parameters"]
    assert settings["signal"] == "USR2@10"


def test_what_is_in_the_queue_is_not_submitted_twice(slurm, capsys):
    submit_grid(configs(), Resources())
    queue(slurm, "1|RUNNING|0:12|None", "2|PENDING|0:00|Dependency", "4|PENDING|0:00|Dependency")
    submit_grid(configs(), Resources())
    out = capsys.readouterr().out
    assert "tiny: 01: job 1 is running 0:12 already" in out
    assert "tiny/lenet5-bs8-seed42: job 2 is pending (Dependency) already" in out
    jobs = submitted(slurm)  # the other run's job is gone, so the tables are submitted again, too
    assert [job["job-name"] for job in jobs.values()][4:] == ["lenet5-bs16-seed42", "tiny-06"]
    assert jobs["5"]["dependency"] == "afterany:1" and "1 jobs" not in out
    assert jobs["6"]["dependency"] == "afterany:1:2:5:4"
    queue(slurm, *(f"{id}|PENDING|0:00|None" for id in (1, 2, 5, 6)))
    submit_grid(configs(), Resources())
    assert len(submitted(slurm)) == 6 and "0 jobs submitted" in capsys.readouterr().out


def test_what_is_done_gets_no_job(slurm, monkeypatch, capsys):
    monkeypatch.setattr(Task, "is_done", lambda task: task.run is None or "bs8" in task.label)
    submit_grid(configs(), Resources())
    names = [job["job-name"] for job in submitted(slurm).values()]
    assert names == ["lenet5-bs16-seed42", "tiny-06"]
    assert "tiny/lenet5-bs8-seed42: done already" in capsys.readouterr().out
    monkeypatch.setattr(Task, "is_done", lambda task: True)
    submit_grid(configs(), Resources())
    assert len(submitted(slurm)) == 2


def test_dry_run_prints_the_jobs_and_submits_nothing(slurm, capsys):
    assert main(["run", *OPTIONS, "--batch-size", "8", "--slurm", "--gpus", "2", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "would run   tiny/lenet5-bs8-seed42: 02" in out and "    devices = 2\n" in out
    assert "would submit tiny/lenet5-bs8-seed42" in out and "--gpus-per-node=2" in out
    assert submitted(slurm) == {} and not (slurm / "runs").exists()


def test_devices_can_be_others_than_gpus(slurm, capsys):
    options = [*OPTIONS, "--batch-size", "8", "--slurm", "--gpus", "2", "--devices", "1"]
    assert main(["run", *options, "--dry-run"]) == 0
    assert "    devices = 1\n" in capsys.readouterr().out


def test_a_device_that_the_login_node_lacks_is_asked_for_all_the_same(slurm):
    submit_grid([config.updated(device="cuda") for config in configs()], Resources())
    job = slurm_queue.noted_job(RunDirectory(configs()[0]).path, slurm_queue.RUN)
    assert job.settings["device"] == "cuda"


def test_a_refused_job_is_one_line_and_leaves_nothing_half_done(slurm, capsys):
    said = "sbatch: error: A GPU must be asked for\nsbatch: error: Batch job submission failed\n"
    (slurm / "refuse").write_text(said)
    logs = slurm_queue.slurm_folder(slurm / "runs" / "tiny")
    logs.mkdir(parents=True)
    (logs / "7_0_log.out").write_text("of another job, which has just begun")
    assert main(["run", *OPTIONS, "--batch-size", "8", "--slurm"]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    told = "A GPU must be asked for; Batch job submission failed; 0 jobs"
    assert f"sbatch refused the job of tiny: 01: {told}" in error
    assert [path.name for path in logs.iterdir()] == ["7_0_log.out"]


def test_an_answer_of_sbatch_that_names_no_job_is_one_line(slurm, capsys):
    (slurm / "odd").touch()
    assert main(["run", *OPTIONS, "--batch-size", "8", "--slurm"]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and "queued on cluster b" in error and "squeue" in error


def test_a_job_in_the_queue_with_other_settings_is_not_taken_for_this_run(slurm, capsys):
    submit_grid(configs(), Resources())
    queue(slurm, "2|PENDING|0:00|Priority")
    command = ["run", *OPTIONS, "--batch-size", "8", "--slurm", "--save-every", "1"]
    assert main(command) == 0
    assert main([*command, "--epochs", "2"]) == 2
    error = capsys.readouterr().err
    assert "job 2, which is in the queue" in error and "epochs = 3 (requested: 2)" in error
    assert "scancel 2" in error


def test_a_job_at_its_end_is_waited_for_and_followed_by_another(slurm):
    submit_grid(configs()[:1], Resources())
    queue(slurm, "2|COMPLETING|0:12|None")
    submit_grid(configs()[:1], Resources())
    jobs = submitted(slurm)
    assert jobs["5"]["job-name"] == "lenet5-bs8-seed42"
    assert jobs["5"]["dependency"] == "afterany:4:2"


def test_settings_of_sbatch_can_be_given_one_by_one(slurm):
    options = ["--sbatch", "account=plankton", "--sbatch", "qos=long"]
    assert main(["run", *OPTIONS, "--batch-size", "8", "--slurm", *options]) == 0
    for job in submitted(slurm).values():
        assert job.items() >= {"account": "plankton", "qos": "long"}.items()


def test_jobs_take_nothing_over_from_a_job_that_submits_them(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/other.conf")
    submit_grid(configs(), Resources())
    names = {line.split("=")[0] for line in (slurm / "environment").read_text().splitlines()}
    assert "SLURM_CONF" in names and "SLURM_MEM_PER_NODE" not in names
    assert os.environ["SLURM_MEM_PER_NODE"] == "100"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gpus", "2", "--devices", "4"], "--devices 4 needs --gpus 4"),
        (["--devices", "4"], "--devices 4 needs --gpus 4"),
        (["--gpus", "8"], "batch_size 8 cannot be shared by 8 processes"),
    ],
)
def test_devices_that_a_job_would_not_have_or_a_batch_not_serve_are_refused(
    slurm, capsys, options, words
):
    size = "8" if "4" in options else "7"
    words = words.replace("size 8", f"size {size}")
    assert main(["run", *OPTIONS, "--batch-size", size, "--slurm", *options]) == 2
    assert words in capsys.readouterr().err and submitted(slurm) == {}


def test_a_dry_run_does_without_a_queue(slurm, capsys):
    (slurm / "squeue.txt").unlink()
    assert main(["run", *OPTIONS, "--batch-size", "8", "--slurm", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "the queue is unknown: squeue failed (exit status 1): down" in out
    assert "would submit tiny/lenet5-bs8-seed42" in out
    assert main(["run", *OPTIONS, "--batch-size", "8", "--slurm"]) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--partition", "gpu"], "--partition needs --slurm"),
        (["--slurm", "--jobs", "2"], "--jobs cannot be used with --slurm"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--slurm", "--time", "soon"], "--time must be a limit such as"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(workbook, capsys, options, words):
    assert main(["run", *OPTIONS, "--batch-size", "8", *options]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and words in error
    assert not (workbook / "runs").exists()


def test_a_machine_without_slurm_or_submitit_is_one_line(slurm, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "submitit", None)
        with pytest.raises(InputError, match="pip install submitit"):
            submit_grid(configs(), Resources())
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="there is no sbatch on PATH"):
        submit_grid(configs(), Resources())


def test_status_shows_the_queue(slurm, monkeypatch):
    submit_grid(configs(), Resources())
    queue(slurm, "2|RUNNING|1:23:45|None", "3|PENDING|0:00|Priority", "4|PENDING|0:00|Dependency")
    lines = status_lines()
    assert lines[0] == "tiny: 2 runs; notebooks done: none; 06 pending (Dependency)"
    assert lines[1].split()[:6] == ["run", "pretrain", "probe", "test", "retrieve", "queue"]
    assert lines[2].startswith("  lenet5-bs16-seed42  missing") and "pending (Priority)" in lines[2]
    assert lines[3].startswith("  lenet5-bs8-seed42") and "running 1:23:45" in lines[3]
    (slurm / "squeue.txt").unlink()  # now squeue fails
    assert "queue" not in "".join(status_lines())
    (slurm / "bin" / "squeue").write_text("#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setattr(slurm_queue, "SECONDS_TO_ANSWER", 0.2)
    assert "queue" not in "".join(status_lines())


def test_status_without_jobs_asks_for_no_queue(slurm, trained):
    assert "queue" not in "".join(status_lines()) and not (slurm / "asked").exists()


def test_a_stage_whose_job_left_the_queue_was_interrupted(slurm, trained, monkeypatch):
    """The stage ran on another host, whose processes cannot be checked."""
    slurm_queue.note_job(trained.path, slurm_queue.RUN, "7", trained.config)
    noted = {"state": "running", "started": 0.0, "host": "node1", "pid": 1, "job": "7"}
    # The clock stands still: on a busy machine, a second can pass between two lines.
    monkeypatch.setattr("thesis_lib.runs.provenance.time", SimpleNamespace(time=lambda: 0.0))
    trained.status_file.write_text(json.dumps({"probe": noted}))
    queue(slurm, "7|RUNNING|0:12|None")
    assert "running 0:00:00" in status_lines()[2]
    for lines in ([], ["7|PENDING|0:00|BeginTime"]):
        queue(slurm, *lines)
        assert "interrupted 0:00:00" in status_lines()[2]
    with monkeypatch.context() as patched:
        patched.setattr(getpass, "getuser", lambda: "supervisor")  # not in that user's queue
        assert "running 0:00:00" in status_lines()[2]
    (slurm / "squeue.txt").unlink()  # the queue is unknown
    assert "running 0:00:00" in status_lines()[2]


@pytest.fixture
def job(slurm, monkeypatch):
    """Run the work of a job with a given function instead of the notebooks."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm_job, "SECONDS_FOR_A_SIGNAL", 0.3)

    def work(notebooks, state="RUNNING"):
        (slurm / "state").write_text(state)
        monkeypatch.setattr(slurm_job, "execute_in_turn", notebooks)
        try:
            slurm_job.work(configs()[0].to_dict(), "job")
        except SystemExit as ended:
            told = slurm / "scontrol.txt"
            requeued = told.is_file() and "requeue 7" in told.read_text().splitlines()
            return ended.code, requeued
        return 0, False

    return work


def signalled(number, failures=()):
    def notebooks(tasks):
        signal.raise_signal(number)
        return list(failures)

    return notebooks


def test_a_job_that_is_cut_off_is_requeued(job, capsys):
    assert job(signalled(signal.SIGUSR2), state="anything") == (EXIT_RESUMABLE, True)
    assert "stopped by SIGUSR2; requeued" in capsys.readouterr().out


def test_a_job_that_is_preempted_with_grace_is_requeued(job):
    assert job(signalled(signal.SIGTERM)) == (EXIT_RESUMABLE, True)


def test_a_job_that_slurm_ends_or_requeues_itself_is_not(job, capsys):
    assert job(signalled(signal.SIGTERM), state="COMPLETING") == (EXIT_RESUMABLE, False)
    assert "stopped by SIGTERM" in capsys.readouterr().out


def test_a_controller_that_does_not_answer_is_told(job, slurm, monkeypatch, capsys):
    monkeypatch.setattr(slurm_job.time, "sleep", lambda seconds: None)
    (slurm / "bin" / "scontrol").unlink()
    monkeypatch.setenv("PATH", str(slurm / "bin"))
    assert job(signalled(signal.SIGTERM)) == (EXIT_RESUMABLE, False)
    told = "stopped by SIGTERM, but could not be requeued: scontrol: No such file or directory"
    assert told in capsys.readouterr().err


def test_a_lock_of_a_node_that_broke_down_is_waited_for(job, monkeypatch, capsys):
    """Another process holds the run's lock and stops after a while."""
    monkeypatch.setattr(slurm_job, "SECONDS_BETWEEN_LOOKS", 0.2)
    folder = RunDirectory(configs()[0]).path
    code = (
        "import sys, time; from pathlib import Path; from thesis_lib.system.locks import locked\n"
    )
    code += "with locked(Path(sys.argv[1])): print(flush=True); time.sleep(2)"
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        assert job(lambda tasks: []) == (0, False)
        assert holder.wait(1) == 0
    assert f"is in use by process {holder.pid}" in capsys.readouterr().out


def test_a_failed_job_says_why_in_one_line_and_is_not_requeued(job, capsys):
    assert job(lambda tasks: ["tiny/x: 02: InputError: broken"]) == (1, False)
    assert capsys.readouterr().err == "thesis: error: tiny/x: 02: InputError: broken\n"
    assert job(lambda tasks: []) == (0, False)


def test_a_kernel_that_a_signal_killed_before_its_runner_heard_is_no_failure(job):
    def notebooks(tasks):
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        return ["tiny/x: 02: the notebook's kernel was killed"]

    previous = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGUSR2))
    try:
        assert job(notebooks) == (EXIT_RESUMABLE, True)
    finally:
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_notice_is_heeded_once_however_often_it_comes(number):
    with sigterm_raises(), pytest.raises(Terminated) as ended, deferred_signals() as deferral:
        for other in (number, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            signal.raise_signal(other)
        assert deferral.signal == number
    assert ended.value.signal == number and ended.value.code == EXIT_RESUMABLE
    with sigterm_raises():
        with pytest.raises(Terminated):
            signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)  # during the cleanup
        signal.raise_signal(signal.SIGUSR2)
