"""Plan which notebooks a grid of runs executes, with which parameters, and which are done."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thesis_lib.config import (
    DISPLAY_FIELDS,
    IDENTITY,
    MACHINE,
    PRETRAIN,
    PROBE,
    RETRIEVE,
    RunConfig,
)
from thesis_lib.errors import InputError
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import read_json
from thesis_lib.system.paths import data_runs_folder, find_data
from thesis_lib.workbook.receipts import STAGE_OF, receipt_holds

if TYPE_CHECKING:  # it loads torch
    from thesis_lib.data.datasets import DataSet

# Stages whose settings are passed to a run's notebooks. Notebook 02 makes the run. The later ones
# find it by its identity and read the other settings from its config.json.
READ_LATER = (IDENTITY, PROBE, MACHINE)
STAGES_READ = {
    "pretrain": (IDENTITY, PRETRAIN, PROBE, MACHINE),
    "retrieve": (IDENTITY, PROBE, RETRIEVE, MACHINE),
}


@dataclass(frozen=True)
class Notebook:
    """One of the numbered notebooks: run once per data set (``stage`` is None) or once per run."""

    name: str
    stage: str | None = None


DATA_STATS = Notebook("01_data_stats")


RUN_NOTEBOOKS = tuple(Notebook(name, stage) for name, stage in STAGE_OF.items())


THESIS_TABLES = Notebook("06_thesis_tables")


@dataclass(frozen=True)
class Task:
    """One notebook to execute, for one run or (``run`` is None) for a data set."""

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
        """Path of the executed copy."""
        folder = self.run.path if self.run else data_runs_folder(self.config.data_name)
        return folder / "notebooks" / f"{self.notebook.name}.ipynb"

    @property
    def parameters(self) -> dict[str, Any]:
        """Values that papermill passes: settings in the parameters cell or not at their default."""
        settings, defaults = self.config.to_dict(), RunConfig().to_dict()
        if self.notebook.stage is None:
            return {name: settings[name] for name in shown_parameters(notebook_path(self.notebook))}
        fields = RunConfig.field_names(*STAGES_READ.get(self.notebook.stage, READ_LATER))
        shown = shown_parameters(notebook_path(self.notebook))
        # Always pass the display settings: figures and tables of all notebooks should look the
        # same, even if a run was made with other display settings before.
        passed = {*shown, *DISPLAY_FIELDS, *(n for n in fields if settings[n] != defaults[n])}
        return {n: settings[n] for n in fields if n in passed}

    def is_done(self) -> bool:
        """Return whether an up-to-date executed copy with these parameters exists."""
        if not self.executed.is_file() or executed_parameters(self.executed) != self.parameters:
            return False
        return receipt_holds(self.notebook.name, self.config)


def notebook_path(notebook: Notebook) -> Path:
    """Return the path of a notebook: beside the package, or inside it if it was installed."""
    package = Path(__file__).parent.parent
    for folder in (package.parent / "notebooks", package / "notebooks"):
        path = folder / f"{notebook.name}.ipynb"
        if path.is_file():
            return path
    raise InputError(f"there is no notebook {notebook.name}.ipynb beside {package}")


def shown_parameters(path: Path) -> set[str]:
    """Return the names that the notebook's parameters cell sets.

    Raises:
        InputError: if no cell has the tag ``parameters``.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = (c for c in cells if "parameters" in c["metadata"].get("tags", []))
    cell = next(tagged, None)
    if cell is None:
        raise InputError(
            f"{path} has no cell with the tag 'parameters', so the notebook's own values would "
            "replace the settings of the run; add the tag to the cell that sets them"
        )
    lines = "".join(cell["source"]).splitlines()
    return {line.split("=")[0].strip() for line in lines if "=" in line.split("#")[0]}


def executed_parameters(path: Path) -> dict[str, Any]:
    """Return the parameters with which a copy was executed."""
    return read_json(path)["metadata"].get("papermill", {}).get("parameters", {})


def run_notebooks(data: str) -> tuple[Notebook, ...]:
    """Return notebooks 02 to 05, or 02 and 05 for a data set without val/, which 03 needs."""
    if (find_data(data) / "val").is_dir():
        return RUN_NOTEBOOKS
    return tuple(n for n in RUN_NOTEBOOKS if n.stage in ("pretrain", "retrieve"))


@dataclass(frozen=True)
class Plan:
    """The notebooks of a grid: 01 for the data set, 02 to 05 for each run, 06 for all runs."""

    first: Task
    runs: list[list[Task]]
    last: Task

    @property
    def tasks(self) -> list[Task]:
        """All notebooks, in the order of a sequential execution."""
        return [self.first, *(task for tasks in self.runs for task in tasks), self.last]

    def to_do(self) -> list[Task]:
        """Return the notebooks to execute: those not done, and all after them in the same run."""
        found = [task for task in [self.first] if not task.is_done()]
        for tasks in self.runs:
            undone = [number for number, task in enumerate(tasks) if not task.is_done()]
            found += tasks[undone[0] :] if undone else []
        return found + [task for task in [self.last] if found or not task.is_done()]


def plan_of(configs: Sequence[RunConfig]) -> Plan:
    """Plan the notebooks of a grid of configs on the same data set."""
    notebooks = run_notebooks(configs[0].data)
    runs = [RunDirectory(config) for config in configs]
    per_run = [[Task(notebook, run.config, run) for notebook in notebooks] for run in runs]
    return Plan(Task(DATA_STATS, configs[0]), per_run, Task(THESIS_TABLES, configs[0]))


def print_plan(plan: Plan) -> None:
    """Print the settings of each run and which notebooks would be executed."""
    from thesis_lib.backbones import has_small_stem
    from thesis_lib.training.pretraining import create_model

    print_skipped_notebooks(plan.first.config.data)
    for tasks in plan.runs:
        run = tasks[0].run
        assert run is not None  # only 01 and 06 belong to no run
        print(f"{run.config.data_name}/{run.path.name}")
        for name, value in run.config.to_dict().items():
            print(f"    {name} = {json.dumps(value, ensure_ascii=False)}")
        small = has_small_stem(create_model(run.config, 2).backbone)
        measured = "those of the weights, or else " if run.config.weights else ""
        measured = "as configured" if run.config.mean else f"{measured}measured on train/"
        print(f"  mean, std: {measured}")
        print(f"  stem: {'for small images' if small else 'standard'}")
    to_do = plan.to_do()
    for task in plan.tasks:
        print(f"{'would run  ' if task in to_do else 'done       '} {task.label}")


def print_estimates(plan: Plan, dataset: "DataSet") -> None:
    """Print what each run that is not done will cost, from a few timed steps on this machine."""
    from thesis_lib.system.device import choose_device
    from thesis_lib.training.estimates import estimate, estimate_apart

    for pretraining, *_ in plan.runs:
        if not pretraining.is_done():
            name = pretraining.label.removesuffix(f": {pretraining.notebook.name}")
            try:
                on_cpu = choose_device(pretraining.config).type == "cpu"
                words = str((estimate if on_cpu else estimate_apart)(pretraining.config, dataset))
            except InputError as error:  # the run itself will name the image or the memory
                words = f"its cost cannot be estimated: {error}"
            print(f"{name}: {words}", flush=True)


def print_skipped_notebooks(data: str) -> None:
    """Print why notebooks 03 and 04 are left out for a data set without val/."""
    if len(run_notebooks(data)) < len(RUN_NOTEBOOKS):
        print(f"-- {data} has no val/ to choose a head on: 03 and 04 are left out")
