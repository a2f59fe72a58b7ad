"""The grid of notebooks, by papermill: what is done is skipped, what failed does not stop it."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thesis_lib.config import (
    IDENTITY,
    MACHINE,
    PRETRAIN,
    PROBE,
    RETRIEVE,
    SHOWN,
    InputError,
    RunConfig,
)
from thesis_lib.runs.directory import RunDirectory, data_runs_folder, find_data, relative_to_root
from thesis_lib.system.files import read_json, sweep_partial
from thesis_lib.system.locks import locked
from thesis_lib.workbook.receipts import STAGE_OF, receipt_holds


@dataclass(frozen=True)
class Notebook:
    """One of the numbered notebooks: run once a data set (``stage`` None) or once a run."""

    name: str
    stage: str | None = None


DATA_STATS = Notebook("01_data_stats")
RUN_NOTEBOOKS = tuple(Notebook(name, stage) for name, stage in STAGE_OF.items())
THESIS_TABLES = Notebook("06_thesis_tables")
# Settings that a run's notebook is passed: 02 makes the run, the later ones find it by what names
# it, and read the rest from its config.json.
READ_LATER = (IDENTITY, PROBE, MACHINE)
STAGES_READ = {
    "pretrain": (IDENTITY, PRETRAIN, PROBE, MACHINE),
    "retrieve": (IDENTITY, PROBE, RETRIEVE, MACHINE),
}


@dataclass(frozen=True)
class Task:
    """One notebook to execute, for one run or (``run`` None) for a data set."""

    notebook: Notebook
    config: RunConfig
    run: RunDirectory | None = None

    @property
    def label(self) -> str:
        """``digits: 01_data_stats`` or ``digits/lenet5-bs64-seed42: 04_final_test``."""
        name = self.config.data_name
        return f"{f'{name}/{self.run.path.name}' if self.run else name}: {self.notebook.name}"

    @property
    def executed(self) -> Path:
        """Where the executed copy goes."""
        folder = self.run.path if self.run else data_runs_folder(self.config.data_name)
        return folder / "notebooks" / f"{self.notebook.name}.ipynb"

    @property
    def parameters(self) -> dict[str, Any]:
        """What papermill passes: settings that the notebook shows or that are not the default."""
        settings, defaults = self.config.to_dict(), RunConfig().to_dict()
        if self.notebook.stage is None:
            return {name: settings[name] for name in shown_parameters(notebook_path(self.notebook))}
        fields = RunConfig.field_names(*STAGES_READ.get(self.notebook.stage, READ_LATER))
        shown = shown_parameters(notebook_path(self.notebook))
        # What shapes figures and tables is to be the same in all notebooks, whatever a run was
        # made with before.
        asked = {*shown, *SHOWN, *(n for n in fields if settings[n] != defaults[n])}
        return {n: settings[n] for n in fields if n in asked}

    def is_done(self) -> bool:
        """Whether the executed copy is there, of these parameters, and still holds."""
        if not self.executed.is_file() or executed_parameters(self.executed) != self.parameters:
            return False
        return receipt_holds(self.notebook.name, self.config)


def notebook_path(notebook: Notebook) -> Path:
    """The notebook's source: beside the package, or inside it where it was installed whole."""
    package = Path(__file__).parent.parent
    for folder in (package.parent / "notebooks", package / "notebooks"):
        path = folder / f"{notebook.name}.ipynb"
        if path.is_file():
            return path
    raise InputError(f"there is no notebook {notebook.name}.ipynb beside {package}")


def shown_parameters(path: Path) -> set[str]:
    """Names that the notebook's parameters cell sets.

    Raises:
        InputError: where no cell has the tag.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = (c for c in cells if "parameters" in c["metadata"].get("tags", []))
    cell = next(tagged, None)
    if cell is None:
        raise InputError(
            f"{path} has no cell with the tag 'parameters': its settings would be overwritten by "
            "the notebook's own; tag the cell that sets them"
        )
    lines = "".join(cell["source"]).splitlines()
    return {line.split("=")[0].strip() for line in lines if "=" in line.split("#")[0]}


def executed_parameters(path: Path) -> dict[str, Any]:
    """The parameters that an executed copy was given."""
    return read_json(path)["metadata"].get("papermill", {}).get("parameters", {})


def run_notebooks(data: str) -> tuple[Notebook, ...]:
    """02 to 05; 02 and 05 for a data set without val/, on which alone 03 could choose."""
    if (find_data(data) / "val").is_dir():
        return RUN_NOTEBOOKS
    return tuple(n for n in RUN_NOTEBOOKS if n.stage in ("pretrain", "retrieve"))


@dataclass(frozen=True)
class Plan:
    """What a grid consists of: 01 for the data set, 02 to 05 for each run, 06 for all."""

    first: Task
    runs: list[list[Task]]
    last: Task

    @property
    def tasks(self) -> list[Task]:
        """All, in the order of a grid that is executed one notebook after another."""
        return [self.first, *(task for tasks in self.runs for task in tasks), self.last]

    def to_do(self) -> list[Task]:
        """What would be executed: what is not done, and what comes after it in its run."""
        found = [task for task in [self.first] if not task.is_done()]
        for tasks in self.runs:
            undone = [number for number, task in enumerate(tasks) if not task.is_done()]
            found += tasks[undone[0] :] if undone else []
        return found + [task for task in [self.last] if found or not task.is_done()]


def plan_of(configs: Sequence[RunConfig]) -> Plan:
    """The notebooks of a grid; all configs on one data set."""
    notebooks = run_notebooks(configs[0].data)
    runs = [RunDirectory(config) for config in configs]
    per_run = [[Task(notebook, run.config, run) for notebook in notebooks] for run in runs]
    return Plan(Task(DATA_STATS, configs[0]), per_run, Task(THESIS_TABLES, configs[0]))


def tasks_of(configs: Sequence[RunConfig]) -> list[Task]:
    """01, 02 to 05 for each run, 06, one after another; all configs on one data set."""
    return plan_of(configs).tasks


def check_grid(configs: Sequence[RunConfig]) -> None:
    """Refuse what cannot work before anything runs: data, backbones, settings, notebooks.

    Raises:
        InputError: for the first thing that will not do.
    """
    from thesis_lib.data.datasets import open_dataset
    from thesis_lib.training.pretraining import check

    needs = ("train", "val", "test")
    if not (find_data(configs[0].data) / "val").is_dir():  # the cosine recipe makes none
        needs = ("train", "test")
    open_dataset(configs[0].data, needs)
    for config in configs:
        if not config.force:
            RunDirectory(config).check_config()
        check(config)
    for notebook in (DATA_STATS, *run_notebooks(configs[0].data), THESIS_TABLES):
        shown_parameters(notebook_path(notebook))


def run_grid(
    configs: Sequence[RunConfig],
    dry_run: bool = False,
    run_all: Callable[[Sequence[Sequence[Task]]], list[str]] | None = None,
) -> list[str]:
    """Execute the workbook for every config: 01, the runs, 06.

    A notebook that fails ends its run, not the grid. Executed copies go to the run's (or the
    data set's) ``notebooks/``; that of a failed notebook to ``<name>.failed.ipynb``.

    Args:
        configs: the runs, on one data set.
        dry_run: print the plan and execute nothing.
        run_all: executes the notebooks of all runs and returns a line for each failure; by
            default one run after another.

    Returns:
        A line for each failure.

    Raises:
        InputError: for what can be refused before anything runs.
    """
    # These import torch, which `thesis status` cannot wait for.
    from thesis_lib.data.datasets import open_dataset
    from thesis_lib.data.statistics import data_statistics, readable

    check_grid(configs)
    plan = plan_of(configs)
    if dry_run:
        print_plan(plan)
        return []
    tell_of_left_out(configs[0].data)
    dataset = open_dataset(configs[0].data)
    readable(dataset, data_statistics(dataset), configs[0])
    os.environ["THESIS_COMMAND"] = " ".join(sys.argv)  # for the provenance of what kernels write
    failures = execute_in_turn([plan.first])
    failures += (run_all or one_after_another)(plan.runs)
    return failures + execute_in_turn([plan.last])


def one_after_another(runs: Sequence[Sequence[Task]]) -> list[str]:
    """Execute the notebooks of all runs; return a line for each failure."""
    return [failure for tasks in runs for failure in execute_in_turn(tasks)]


def execute_in_turn(tasks: Sequence[Task]) -> list[str]:
    """Execute what is not done of one run's notebooks, or of one data set's, to the first failure.

    Returns:
        A line for the failure, if there was one.
    """
    failures: list[str] = []
    for task in tasks:
        if failures:
            print(f"-- {task.label}: left out, since an earlier notebook of this run failed")
            continue
        if task.is_done():
            print(f"-- {task.label}: done already")
            continue
        print(f">> {task.label}", flush=True)
        began = time.monotonic()
        error = execute(task)
        seconds = time.monotonic() - began
        print(f"{'!!' if error else 'ok'} {task.label}: {error or f'{seconds:.0f} s'}", flush=True)
        if error:
            failures.append(f"{task.label}: {error}")
    return failures


def tell_of_left_out(data: str) -> None:
    """Print why a data set without val/ has no 03 and 04."""
    if len(run_notebooks(data)) < len(RUN_NOTEBOOKS):
        print(f"-- {data} has no val/ to choose a head on: 03 and 04 are left out")


def print_plan(plan: Plan) -> None:
    """Print the settings of each run, and what would be executed."""
    from thesis_lib.models import has_small_stem
    from thesis_lib.training.pretraining import create_model

    tell_of_left_out(plan.first.config.data)
    for tasks in plan.runs:
        run = tasks[0].run
        print(f"{run.config.data_name}/{run.path.name}")
        for name, value in run.config.to_dict().items():
            print(f"    {name} = {json.dumps(value, ensure_ascii=False)}")
        small = has_small_stem(create_model(run.config, 2).backbone)
        print(f"  mean, std: {'as given' if run.config.mean else 'measured on train/'}")
        print(f"  stem: {'for small images' if small else 'the usual one'}")
    to_do = plan.to_do()
    for task in plan.tasks:
        print(f"{'would run  ' if task in to_do else 'done       '} {task.label}")


def execute(task: Task) -> str | None:
    """Execute one notebook; return None, or what went wrong in one line."""
    from thesis_lib.workbook.execution import execute_notebook  # imports papermill: seconds

    source, parameters = notebook_path(task.notebook), task.parameters
    try:
        with locked(task.executed.parent):
            sweep_partial(task.executed.parent, older_than=0)
            return execute_notebook(source, task.executed, parameters, task.config)
    except InputError as error:  # somebody else is at this run
        return str(error)


def grid(settings: dict[str, Any], backbones: Sequence[str], batch_sizes: Sequence[int]):
    """A config for each backbone and batch size, with the same other settings."""
    configs = [
        RunConfig.from_dict({**settings, "backbone": backbone, "batch_size": batch_size})
        for backbone in backbones
        for batch_size in batch_sizes
    ]
    data = relative_to_root(find_data(configs[0].data))
    return [config.updated(data=data) for config in dict.fromkeys(configs)]
