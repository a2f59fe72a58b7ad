"""A grid as jobs of a Slurm cluster, through submitit: 01, a job a run, 06."""

import contextlib
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.runs.directory import listed_differences
from thesis_lib.system.paths import relative_to_root
from thesis_lib.workbook.grid import check_grid
from thesis_lib.workbook.plan import Plan, Task, plan_of, print_plan
from thesis_lib.workbook.resources import Resources
from thesis_lib.workbook.slurm_job import work
from thesis_lib.workbook.slurm_queue import (
    DATA_STATS,
    RUN,
    THESIS_TABLES,
    Job,
    Queued,
    note_job,
    noted_job,
    read_queue,
    slurm_folder,
)

SECONDS_FOR_THE_QUEUE = 60.0  # that a busy cluster may take


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
    _check_gpus(configs[0], resources)
    # A login node need not have the devices that jobs ask for.
    check_grid([config.updated(device="cpu") for config in configs])
    plan = plan_of(configs)
    os.environ["THESIS_COMMAND"] = " ".join(sys.argv)  # for the provenance of what jobs write
    try:
        queue = read_queue(SECONDS_FOR_THE_QUEUE)
    except InputError as error:
        if not dry_run:
            raise
        print(f"-- what is in the queue is not known: {error}")
        queue = {}
    if dry_run:
        print_plan(plan)
    submission = _Submission(plan, resources, queue, dry_run)
    first = submission.place(DATA_STATS, [plan.first], [])
    runs = [job for tasks in plan.runs if (job := submission.place(RUN, tasks, first))]
    submission.place(THESIS_TABLES, [plan.last], [*first, *(job for jobs in runs for job in jobs)])
    if not dry_run:
        print(f"{submission.submitted} jobs submitted; `thesis status` shows how far they are")


def _check_gpus(config: RunConfig, resources: Resources) -> None:
    if config.device not in ("auto", "cuda"):
        return
    if config.devices > max(1, resources.gpus or 0):
        raise InputError(
            f"--devices {config.devices} needs --gpus {config.devices}, or --device cpu"
        )
    if resources.gpus is None:
        print("-- no --gpus: jobs train on the CPU, unless the partition or --sbatch gives a GPU")


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
        queued = self.queue.get(noted.id) if noted else None
        if queued is not None and queued.state == "COMPLETING":  # it is at its end
            after, queued = [*after, noted.id], None
        if queued is not None:
            if kind == RUN:
                _check_same(noted, task.config)
            # Tables that wait for earlier runs alone are to be made once more after these.
            if kind != THESIS_TABLES or not self.submitted:
                print(f"-- {label}: job {noted.id} is {queued} already")
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
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        logs = slurm_folder(folder)
        logs.mkdir(parents=True, exist_ok=True)
        executor = SlurmExecutor(folder=logs)
        executor.update_parameters(**parameters)
        try:
            with _no_job_of_its_own(), contextlib.redirect_stderr(io.StringIO()):  # it raises it
                job = executor.submit(work, config.to_dict(), kind).job_id
        except FailedSubmissionError as error:
            said = " ".join(str(error).split())
            raise InputError(
                f"sbatch names no job for {label} ({said}); look with squeue whether it is there"
            ) from None
        except FailedJobError as error:
            for stray in logs.iterdir():
                if re.fullmatch(r"[0-9a-f]{32}\.pkl|\.submission_file_.*", stray.name):
                    stray.unlink()
            said = "; ".join(
                line.removeprefix("sbatch: ").removeprefix("error: ")
                for line in str(error).splitlines()
                if line.startswith("sbatch: ")
            )
            raise InputError(
                f"sbatch refuses the job of {label}: {said or error}; "
                f"{self.submitted - 1} jobs before it are in the queue, and the same command "
                "submits the others"
            ) from None
        for link in logs.glob(".submission_file_*"):  # submitit's, which would not survive a move
            link.unlink()
        note_job(folder, kind, job, config)
        return job


def _check_same(noted: Job, config: RunConfig) -> None:
    """Raise InputError where a run's job in the queue was given other settings."""
    differing = RunConfig.from_dict(noted.settings).differences(config)
    if differing:
        raise InputError(
            f"job {noted.id}, which is in the queue, trains {config.run_name} with "
            f"{listed_differences(differing)}; "
            f"scancel {noted.id} first, or give this run a name of its own with --tag NAME"
        )


@contextlib.contextmanager
def _no_job_of_its_own() -> Iterator[None]:
    """Hide the job that this process may itself be in: sbatch would take its resources over."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    hidden = {n: v for n, v in os.environ.items() if n.startswith("SLURM_") and n not in kept}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _as_options(parameters: dict[str, Any]) -> list[str]:
    """What sbatch is told, as it would stand on its command line."""
    parameters = {**parameters, **parameters["additional_parameters"]}
    hidden = ("additional_parameters", "setup", "teardown", "srun_args", "stderr_to_stdout")
    return [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in parameters.items()
        if name not in hidden and value is not None
    ]
