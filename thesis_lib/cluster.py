"""A grid as jobs of a Slurm cluster, through submitit: 01, a job a run, 06."""

import contextlib
import io
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thesis_lib.cluster_job import work
from thesis_lib.config import InputError, RunConfig
from thesis_lib.job_queue import (
    DATA_STATS,
    RUN,
    THESIS_TABLES,
    Queued,
    note_job,
    noted_job,
    read_queue,
    slurm_folder,
)
from thesis_lib.runs import relative_to_root
from thesis_lib.workbook import Plan, Task, check_grid, plan_of, print_plan

SECONDS_OF_NOTICE = 120  # before the time limit: SIGUSR2, which a training saves on
# Lines of a job's script: without the trap, bash would not wait for srun, which waits until all is
# saved. A signal in a job's first seconds, which nobody hears yet, kills it: status 128 + 12 or 15.
BEFORE = ["trap : TERM USR2"]
AFTER = [
    "status=$?",
    "if [ $status -eq 140 ] || [ $status -eq 143 ]; then",
    "    scontrol show job $SLURM_JOB_ID | grep -q JobState=RUNNING &&",
    "        scontrol requeue $SLURM_JOB_ID",
    "fi",
    "exit $status",
]
# sbatch's settings that jobs stand or fall by; others can be given as they are.
OURS = ("array", "dependency", "error", "no-requeue", "open-mode", "output", "requeue")


@dataclass(frozen=True)
class Resources:
    """What each run asks of Slurm; None leaves it to the cluster.

    Args:
        partition: its name.
        gpus, cpus: of a run; the jobs of 01 and 06 ask for no GPU.
        time: limit, such as 08:00:00 or 2-00:00:00; a run may take any number of such slots.
        mem: memory, such as 32G.
        sbatch: further settings of sbatch, NAME=VALUE or NAME.

    Raises:
        InputError: for a value that Slurm would not take, or that jobs stand or fall by.
    """

    partition: str | None = None
    gpus: int | None = None
    cpus: int | None = None
    time: str | None = None
    mem: str | None = None
    sbatch: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("gpus", "cpus"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} must be at least 1, not {value}")
        if self.mem is not None and not re.fullmatch(r"\d+[KMGT]?", self.mem, re.IGNORECASE):
            raise InputError(f"--mem must be such as 32G or 500M, not {self.mem!r}")
        if self.time is not None and time_limit(self.time) < 1:
            raise InputError(f"--time must be more than nothing, not {self.time!r}")
        for name in self.further():
            if name in OURS:
                raise InputError(f"--sbatch {name}: jobs set this themselves; leave it out")

    def further(self) -> dict[str, Any]:
        """``sbatch`` as names and values; True for a name alone."""
        pairs = (text.lstrip("-").partition("=") for text in self.sbatch)
        return {name: value if equals else True for name, equals, value in pairs}

    def parameters(self, kind: str, name: str, after: Sequence[str]) -> dict[str, Any]:
        """What submitit's SlurmExecutor is given for one job.

        Args:
            kind: DATA_STATS, RUN or THESIS_TABLES.
            name: the job's.
            after: ids of the jobs whose end it waits for, however they end.
        """
        notice = SECONDS_OF_NOTICE
        limit = None if self.time is None else time_limit(self.time)
        if limit is not None:  # Slurm may send it half a minute too early
            notice = min(notice, 60 * limit // 6)
        asked = {
            "job_name": name,
            "partition": self.partition,
            "gpus_per_node": self.gpus if kind == RUN else None,
            "cpus_per_task": self.cpus,
            "time": limit,
            "mem": self.mem,
            "dependency": f"afterany:{':'.join(after)}" if after else None,
        }
        # srun takes neither from sbatch in all versions.
        srun = ["--open-mode=append", *([f"--cpus-per-task={self.cpus}"] if self.cpus else [])]
        return asked | {
            "ntasks_per_node": 1,
            "wckey": None,
            "stderr_to_stdout": True,
            "srun_args": srun,
            "setup": BEFORE,
            "teardown": AFTER,
            "additional_parameters": {
                "requeue": True,
                "signal": f"USR2@{notice}",
                **self.further(),
            },
        }


def time_limit(text: str) -> int:
    """Minutes of a time limit as Slurm writes it, rounded up.

    Args:
        text: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
        InputError: for another text.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise InputError(f"--time must be such as 08:00:00 or 2-00:00:00, not {text!r}")
    days, *parts = (int(part) if part else 0 for part in match.groups())
    given = sum(part is not None for part in match.groups()[1:])
    if match[1] is None and given < 3:  # minutes come first
        parts = [0, *parts[:2]]
    hours, minutes, seconds = parts
    return -(-(((days * 24 + hours) * 60 + minutes) * 60 + seconds) // 60)


def submit_grid(configs: Sequence[RunConfig], resources: Resources, dry_run: bool = False) -> None:
    """Give a grid to Slurm: a job for 01, one a run after it, one for 06 after all.

    What is done, and what is in the queue already, is not submitted.

    Args:
        configs: the runs, on one data set.
        resources: of each run.
        dry_run: print what would be submitted.

    Raises:
        InputError: for what can be refused before anything runs; for a cluster or submitit that
            is not there; for a job that sbatch refuses.
    """
    if not dry_run:
        _needs_slurm()
    # A login node need not have the devices that jobs ask for.
    check_grid([config.updated(device="cpu", devices=1) for config in configs])
    plan = plan_of(configs)
    if dry_run:
        print_plan(plan)
    os.environ["THESIS_COMMAND"] = " ".join(sys.argv)  # for the provenance of what jobs write
    queue = {} if dry_run and shutil.which("squeue") is None else read_queue()
    submission = _Submission(plan, resources, queue, dry_run)
    first = submission.place(DATA_STATS, [plan.first], [])
    runs = [job for tasks in plan.runs if (job := submission.place(RUN, tasks, first))]
    submission.place(THESIS_TABLES, [plan.last], [*first, *(job for jobs in runs for job in jobs)])
    if not dry_run:
        print(f"{submission.submitted} jobs submitted; `thesis status` shows how far they are")


def _needs_slurm() -> None:
    for name in ("sbatch", "srun"):
        if shutil.which(name) is None:
            raise InputError(
                f"there is no {name} on PATH: run this on a cluster's login node, or leave out "
                "--slurm"
            )
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise InputError("submitit is missing: pip install submitit") from None


@dataclass
class _Submission:
    """One grid on its way into the queue."""

    plan: Plan
    resources: Resources
    queue: dict[str, Queued]
    dry_run: bool
    submitted: int = 0

    def __post_init__(self) -> None:
        self.to_do = self.plan.to_do()

    def place(self, kind: str, tasks: Sequence[Task], after: Sequence[str]) -> list[str]:
        """Submit a job for some notebooks, if need be.

        Returns:
            The id of the job that is in the queue now, or nothing where all is done.
        """
        task = tasks[0]
        folder = task.executed.parent.parent
        label = task.label.split(":")[0] + ("" if kind == RUN else f": {kind}")
        noted = noted_job(folder, kind)
        if noted is not None and noted.id in self.queue:
            # Tables that wait for earlier runs alone are to be made once more after these.
            if kind != THESIS_TABLES or not self.submitted:
                print(f"-- {label}: job {noted.id} is {self.queue[noted.id]} already")
                return [noted.id]
            after = [*after, noted.id]
        elif not any(task in self.to_do for task in tasks):
            print(f"-- {label}: done already")
            return []
        name = task.run.path.name if task.run else f"{task.config.data_name}-{kind}"
        parameters = self.resources.parameters(kind, name, after)
        self.submitted += 1
        if self.dry_run:
            print(f"would submit {label}\n    {' '.join(_as_options(parameters))}")
            return [name]
        job = self._submit(folder, kind, task.config, parameters, label)
        waits = f", after {', '.join(after)}" if after else ""
        print(f">> {label}: job {job}{waits}; log in {relative_to_root(slurm_folder(folder))}/")
        return [job]

    def _submit(
        self, folder: Path, kind: str, config: RunConfig, parameters: dict[str, Any], label: str
    ) -> str:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError

        logs = slurm_folder(folder)
        logs.mkdir(parents=True, exist_ok=True)
        there = set(logs.iterdir())
        executor = SlurmExecutor(folder=logs)
        executor.update_parameters(**parameters)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # it prints what it then raises
                job = executor.submit(work, config.to_dict(), kind).job_id
        except FailedJobError as error:
            for stray in set(logs.iterdir()) - there:
                stray.unlink()
            said = str(error).strip().split("\n")[-1]
            raise InputError(
                f"sbatch refuses the job of {label}: {said}; {self.submitted - 1} jobs before it "
                "are in the queue, and the same command submits the others"
            ) from None
        for link in logs.glob(".submission_file_*"):  # submitit's, which would not survive a move
            link.unlink()
        note_job(folder, kind, job, config)
        return job


def _as_options(parameters: dict[str, Any]) -> list[str]:
    """What sbatch is told, as it would stand on its command line."""
    parameters = {**parameters, **parameters["additional_parameters"]}
    hidden = ("additional_parameters", "setup", "teardown", "srun_args", "stderr_to_stdout")
    return [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in parameters.items()
        if name not in hidden and value is not None
    ]
