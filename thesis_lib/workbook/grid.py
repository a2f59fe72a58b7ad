"""Execute the notebooks of a grid of runs. Skip finished ones; a failure ends only its run."""

import itertools
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from thesis_lib.config import GRID_FIELDS, RunConfig
from thesis_lib.errors import InputError
from thesis_lib.methods import TIMM
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import sweep_partial
from thesis_lib.system.locks import locked
from thesis_lib.system.paths import find_data, find_path, relative_to_root
from thesis_lib.workbook.parameters import config_of
from thesis_lib.workbook.plan import (
    DATA_STATS,
    THESIS_TABLES,
    Task,
    notebook_path,
    plan_of,
    print_estimates,
    print_plan,
    print_skipped_notebooks,
    run_notebooks,
    shown_parameters,
)


def check_grid(configs: Sequence[RunConfig]) -> None:
    """Check data, backbones, settings and notebooks of a grid before anything runs.

    Raises:
        InputError: for the first problem found.
    """
    from thesis_lib.data.datasets import open_dataset, open_splits
    from thesis_lib.training.pretraining import check_run

    needs: tuple[str, ...] = ("train", "val", "test")
    if not (find_data(configs[0].data) / "val").is_dir():  # the cosine recipe has no val/
        needs = ("train", "test")
    open_dataset(configs[0].data, needs, configs[0].crop_bottom)
    open_splits([configs[0].data, *configs[0].other_splits])
    for config in configs:
        if not config.force:
            RunDirectory(config).check_config()
        check_run(config)
    for notebook in (DATA_STATS, *run_notebooks(configs[0].data), THESIS_TABLES):
        shown_parameters(notebook_path(notebook))


def run_grid(
    configs: Sequence[RunConfig],
    dry_run: bool = False,
    run_all: Callable[[Sequence[Sequence[Task]]], list[str]] | None = None,
) -> list[str]:
    """Execute the whole workbook: notebook 01, then 02 to 05 for every run, then 06.

    If a notebook fails, the rest of its run is skipped and the grid continues. Executed copies
    are saved in ``notebooks/`` of the run or of the data set, a failed one as
    ``<name>.failed.ipynb``.

    Args:
        configs: configs of the runs, all on the same data set.
        dry_run: only print the plan.
        run_all: function that executes the notebooks of all runs and returns one line per
            failure; by default, the runs are executed one after another.

    Returns:
        One line per failure.

    Raises:
        InputError: for problems that are found before anything runs.
    """
    # Imported here because they load torch, which would slow down `thesis status`.
    from thesis_lib.data.datasets import open_dataset
    from thesis_lib.data.statistics import data_statistics, readable

    check_grid(configs)
    plan = plan_of(configs)
    dataset = open_dataset(configs[0].data, crop_bottom=configs[0].crop_bottom)
    if dry_run:
        print_plan(plan)
        print_estimates(plan, dataset)
        return []
    print_skipped_notebooks(configs[0].data)
    dataset = readable(dataset, data_statistics(dataset), configs[0])
    print_estimates(plan, dataset)
    os.environ["THESIS_COMMAND"] = " ".join(sys.argv)  # for the provenance that kernels write
    failures = execute_in_turn([plan.first])
    failures += (run_all or run_in_sequence)(plan.runs)
    return failures + execute_in_turn([plan.last])


def grids_of(settings: Mapping[str, Any]) -> list[list[RunConfig]]:
    """Make the grid of each data set; if there are several, that of the first comes last.

    Its notebook 06 also compares them, as splits of the same images.

    Args:
        settings: as for :func:`grid_configs`; ``data`` may be a list.
    """
    data = settings["data"]
    first, *others = data if isinstance(data, list) else [data]
    grids = [grid_configs({**settings, "data": other}) for other in others]
    compared = {"other_splits": others} if others else {}
    return [*grids, grid_configs({**settings, "data": first, **compared})]


def run_in_sequence(runs: Sequence[Sequence[Task]]) -> list[str]:
    """Execute the notebooks of all runs, one run after another; return one line per failure."""
    return [failure for tasks in runs for failure in execute_in_turn(tasks)]


def execute_in_turn(tasks: Sequence[Task]) -> list[str]:
    """Execute the notebooks that are not done yet, one after another, up to the first failure.

    Args:
        tasks: notebooks of one run or of one data set.

    Returns:
        A list with one line for the failure, or an empty list.
    """
    failures: list[str] = []
    for task in tasks:
        if failures:
            print(f"-- {task.label}: skipped, because an earlier notebook of this run failed")
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


def execute(task: Task) -> str | None:
    """Execute one notebook; return None, or one line that says what went wrong."""
    from thesis_lib.workbook.execution import execute_notebook  # slow to import

    source, parameters = notebook_path(task.notebook), task.parameters
    try:
        with locked(task.executed.parent):
            sweep_partial(task.executed.parent, older_than=0)
            return execute_notebook(source, task.executed, parameters, task.config)
    except InputError as error:  # another process is using this run
        return str(error)


def grid_configs(settings: Mapping[str, Any]) -> list[RunConfig]:
    """Make a config for each combination of the values of ``GRID_FIELDS``.

    Args:
        settings: field -> value; for ``GRID_FIELDS`` also a list of values.
    """
    dimensions = {
        name: value if isinstance(value := settings[name], list) else [value]
        for name in GRID_FIELDS
        if name in settings
    }
    configs = [
        config_of({**settings, **dict(zip(dimensions, values, strict=True))})
        for values in itertools.product(*dimensions.values())
    ]
    paths: dict[str, Any] = {"data": relative_to_root(find_data(configs[0].data))}
    paths["other_splits"] = [relative_to_root(find_data(d)) for d in configs[0].other_splits]
    if (weights := settings.get("weights", "")) not in ("", TIMM):
        # The notebooks run in the workbook's root.
        paths["weights"] = relative_to_root(find_path(weights))
    return [config.updated(**paths) for config in dict.fromkeys(configs)]
