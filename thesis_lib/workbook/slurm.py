"""Submit a grid to Slurm with submitit: a job for 01, one job per run, and a job for 06."""

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

SECONDS_FOR_THE_QUEUE = 60.0  # timeout of squeue; a busy cluster can be slow


def submit_grid(configs: Sequence[RunConfig], resources: Resources, dry_run: bool = False) -> None:
    """Submit a grid to Slurm: a job for 01, then one job per run, then a job for 06.

    Notebooks that are done and jobs that are in the queue already are not submitted again.

    Args:
        configs: configs of the runs, all on the same data set.
        resources: resources to request for each job.
        dry_run: only print what would be submitted.

    Raises:
        InputError: for problems that are found before anything runs; if Slurm or submitit is
            missing; if sbatch refuses a job.
    """
    if not dry_run:
        _needs_slurm()
    _check_gpus(configs[0], resources)
    # A login node may lack the devices that jobs request.
    check_grid([config.updated(device="cpu") for config in configs])
    plan = plan_of(configs)
    os.environ["THESIS_COMMAND"] = " ".join(sys.argv)  # for the provenance that jobs write
    try:
        queue = read_queue(SECONDS_FOR_THE_QUEUE)
    except InputError as error:
        if not dry_run:
            raise
        print(f"-- the queue is unknown: {error}")
        queue = {}
    if dry_run:
        print_plan(plan)
    submission = _Submission(plan, resources, queue, dry_run)
    first = submission.place(DATA_STATS, [plan.first], [])
    runs = [job for tasks in plan.runs if (job := submission.place(RUN, tasks, first))]
    submission.place(THESIS_TABLES, [plan.last], [*first, *(job for jobs in runs for job in jobs)])
    if not dry_run:
        print(f"{submission.num_submitted} jobs submitted; `thesis status` shows their progress")


def _check_gpus(config: RunConfig, resources: Resources) -> None:
    if config.device not in ("auto", "cuda"):
        return
    if config.devices > max(1, resources.gpus or 0):
        raise InputError(
            f"--devices {config.devices} needs --gpus {config.devices}, or --device cpu"
        )
    if resources.gpus is None:
        print("-- no --gpus: jobs train on the CPU unless the partition or --sbatch provides a GPU")


def _needs_slurm() -> None:
    for name in ("sbatch", "srun"):
        if shutil.which(name) is None:
            raise InputError(
                f"there is no {name} on PATH; run this command on a cluster's login node, or "
                "leave out --slurm"
            )
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise InputError("submitit is not installed; run: pip install submitit") from None


@dataclass
class _Submission:
    """The submission of one grid."""

    plan: Plan
    resources: Resources
    queue: dict[str, Queued]
    dry_run: bool
    num_submitted: int = 0

    def __post_init__(self) -> None:
        self.to_do = self.plan.to_do()

    def place(self, kind: str, tasks: Sequence[Task], after: Sequence[str]) -> list[str]:
        """Submit a job for some notebooks, unless they are done or in the queue already.

        Args:
            kind: DATA_STATS, RUN or THESIS_TABLES.
            tasks: the notebooks of the job.
            after: ids of the jobs that must have ended before it starts.

        Returns:
            A list with the id of the queued job, or an empty list if all notebooks are done.
        """
        task = tasks[0]
        folder = task.executed.parent.parent
        label = task.label.split(":")[0] + ("" if kind == RUN else f": {kind}")
        last_job = noted_job(folder, kind)
        queued = self.queue.get(last_job.id) if last_job else None
        if last_job and queued is not None and queued.state == "COMPLETING":
            # It is about to end: submit another.
            after, queued = [*after, last_job.id], None
        if last_job and queued is not None:
            if kind == RUN:
                _check_same(last_job, task.config)
            # A queued job for 06 waits for earlier runs only, so submit another for new runs.
            if kind != THESIS_TABLES or not self.num_submitted:
                print(f"-- {label}: job {last_job.id} is {queued} already")
                return [last_job.id]
            after = [*after, last_job.id]
        elif not any(task in self.to_do for task in tasks):
            print(f"-- {label}: done already")
            return []
        name = task.run.path.name if task.run else f"{task.config.data_name}-{kind}"
        parameters = self.resources.parameters(kind, name, after)
        self.num_submitted += 1
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
            with (
                _no_job_of_its_own(),
                contextlib.redirect_stderr(io.StringIO()),
            ):  # errors are raised, too
                job = executor.submit(work, config.to_dict(), kind).job_id
        except FailedSubmissionError as error:
            said = " ".join(str(error).split())
            raise InputError(
                f"sbatch returned no job id for {label} ({said}); check with squeue whether the "
                "job is in the queue"
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
                f"sbatch refused the job of {label}: {said or error}; "
                f"{self.num_submitted - 1} jobs before it are in the queue; fix the options and "
                "run the same command again to submit the others"
            ) from None
        for link in logs.glob(
            ".submission_file_*"
        ):  # submitit's links, which break if the folder is moved
            link.unlink()
        note_job(folder, kind, job, config)
        return job


def _check_same(last_job: Job, config: RunConfig) -> None:
    """Raise InputError if the run's job in the queue has other settings."""
    differing = RunConfig.from_dict(last_job.settings).differences(config)
    if differing:
        raise InputError(
            f"job {last_job.id}, which is in the queue, trains {config.run_name} with "
            f"{listed_differences(differing)}; "
            f"run `scancel {last_job.id}` first, or give this run another name with --tag NAME"
        )


@contextlib.contextmanager
def _no_job_of_its_own() -> Iterator[None]:
    """Hide the job that this process may run in, as sbatch would inherit its resources."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    hidden = {n: v for n, v in os.environ.items() if n.startswith("SLURM_") and n not in kept}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _as_options(parameters: dict[str, Any]) -> list[str]:
    """Return the parameters as options on sbatch's command line, for printing."""
    parameters = {**parameters, **parameters["additional_parameters"]}
    hidden = ("additional_parameters", "setup", "teardown", "srun_args", "stderr_to_stdout")
    return [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in parameters.items()
        if name not in hidden and value is not None
    ]
