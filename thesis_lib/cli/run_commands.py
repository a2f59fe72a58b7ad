"""The commands that run the workbook: demo, run, status, and the single stages.

Other packages are imported inside the functions: torch takes seconds to load, which would slow
down `thesis status` and the answer to a misspelt run.
"""

import argparse
import json
import sys

from thesis_lib.cli.options import asked_of_slurm, find_run, given_settings
from thesis_lib.config import RunConfig, data_set_name
from thesis_lib.errors import InputError
from thesis_lib.workbook.parameters import as_options, config_of


def demo(options: argparse.Namespace) -> int:
    """Make a demo data set and run the whole workbook on it."""
    from thesis_lib.data.demo import demo_configs, prepare_demo_data, prepare_demo_weights
    from thesis_lib.workbook.grid import run_grid
    from thesis_lib.workbook.parallel import run_in_parallel

    configs = demo_configs(options.data)
    prepare_demo_data(configs[0].data)
    if any(config.weights for config in configs):
        prepare_demo_weights()
    run_all = run_in_parallel(configs)
    failures = run_grid(configs, options.dry_run, run_all)
    return _report(failures, configs[0], options.dry_run)


def run(options: argparse.Namespace) -> int:
    """Run the notebooks over a grid, on this machine or as jobs of a Slurm cluster."""
    from thesis_lib.workbook.grid import check_grid, grids_of, run_grid

    requested, settings = asked_of_slurm(options), given_settings(options)
    if "data" not in settings:
        raise InputError(
            "give a data set with --data data/NAME; `thesis split` makes one of your images, and "
            "`thesis demo` runs the demo"
        )
    if requested is not None:
        from thesis_lib.workbook.resources import Resources
        from thesis_lib.workbook.slurm import submit_grid

        resources = Resources(**requested)
        settings.setdefault("devices", resources.gpus or RunConfig.devices)
    *others, last = grids = grids_of(settings)
    if requested is not None:
        for configs in grids:
            submit_grid(
                [config.updated(other_splits=()) for config in configs], resources, options.dry_run
            )
        if others:
            print(
                "when all jobs have ended, give the same command without --slurm: it compares the "
                "splits"
            )
        return 0
    for configs in others and grids:  # all of them before the first one runs for days
        check_grid(configs)
    failures = []
    for configs in grids:
        run_all = None
        if options.jobs is not None:
            from thesis_lib.workbook.parallel import run_in_parallel

            run_all = run_in_parallel(configs, options.jobs)
        failures += run_grid(configs, options.dry_run, run_all)
    return _report(failures, last[0], options.dry_run)


def _report(failures: list[str], config: RunConfig, dry_run: bool) -> int:
    from thesis_lib.system.paths import data_runs_folder, figures_folder, relative_to_root

    if failures:
        print(f"thesis: error: {len(failures)} failed:", *failures, sep="\n  ", file=sys.stderr)
        return 1
    if not dry_run:
        for data in (*config.other_splits, config.data):
            name = data_set_name(data)
            figures = relative_to_root(figures_folder(name))
            runs = relative_to_root(data_runs_folder(name))
            print(f"figures and tables: {figures}/   runs and executed notebooks: {runs}/")
        if config.other_splits:
            compared = relative_to_root(figures_folder(config.data_name, len(config.other_splits)))
            print(f"comparison of the splits: {compared}/")
    return 0


def status(options: argparse.Namespace) -> int:
    """Print the state of each run."""
    from thesis_lib.workbook.status import status_lines

    print("\n".join(status_lines(options.data and data_set_name(options.data))))
    return 0


def clean(options: argparse.Namespace) -> int:
    """Remove what finished runs no longer need."""
    from thesis_lib.runs.cleaning import free_space
    from thesis_lib.runs.directory import check_has_runs, find_runs

    name = options.data and data_set_name(options.data)
    check_has_runs(name)
    runs = find_runs(name)
    print("\n".join(free_space(runs, options.dry_run)))
    return 0


def pretrain(options: argparse.Namespace) -> int:
    """Pretrain one run."""
    from thesis_lib.runs.directory import RunDirectory

    config = config_of(given_settings(options))
    if not config.force:
        RunDirectory(config).check_config()

    from thesis_lib.reporting.tables import run_cost
    from thesis_lib.training.pretraining import pretrain

    run = pretrain(config)
    trained = f"trained for {config.epochs} epochs; " if config.epochs else ""
    print(f"{run.path.name}: {trained}{run_cost(run)}")
    return 0


def probe(options: argparse.Namespace) -> int:
    """Probe the checkpoints of one run."""
    run = find_run(options)

    from thesis_lib.evaluation.probing import best_checkpoint, probe_checkpoints
    from thesis_lib.reporting.tables import head_facts, percent_with_interval
    from thesis_lib.system.files import read_json

    chosen = best_checkpoint(probe_checkpoints(run))
    interval = chosen["val_accuracy_low"], chosen["val_accuracy_high"]
    selection = read_json(run.selection_file)
    head = ", ".join(f"{words} {value}" for words, value in head_facts(selection).items())
    print(
        f"{run.path.name}: chosen checkpoint {chosen['checkpoint']:.0f}, {head}: validation "
        f"accuracy {percent_with_interval(chosen['val_accuracy'], interval)} %\n"
        f"{selection['against_last']}"
    )
    return 0


def test(options: argparse.Namespace) -> int:
    """Test the selected checkpoint of one run, on its own test split or on another data set."""
    other = vars(options).pop("data", None) if options.run is not None else None
    run = find_run(options)
    if other is not None and data_set_name(other) == run.config.data_name:  # it was moved
        options.data, other = other, None
        run = find_run(options)

    from thesis_lib.evaluation import final_test, judge_elsewhere
    from thesis_lib.reporting.tables import elsewhere_sentence, percent_with_interval

    if other is not None:
        print(f"{run.path.name}: {elsewhere_sentence(judge_elsewhere(run, other))}")
        return 0
    result = final_test(run)
    shown = percent_with_interval(result["accuracy"], result["accuracy_interval"])
    print(f"{run.path.name}: test accuracy {shown} % of {result['n']:,} images")
    return 0


def retrieve(options: argparse.Namespace) -> int:
    """Make and test the look-up table of one run."""
    run = find_run(options)

    from thesis_lib.evaluation.retrieval import retrieve
    from thesis_lib.reporting.tables import percent_with_interval

    result = retrieve(run)
    shown = percent_with_interval(result["accuracy"], result["accuracy_interval"])
    print(
        f"{run.path.name}: look-up table of checkpoint {result['checkpoint']} at threshold "
        f"{result['threshold']:.2f}: {result['images']:,} images, {result['index_mib']:.1f} MiB; "
        f"test accuracy {shown} % of {result['n']:,} images"
    )
    return 0


def stage(options: argparse.Namespace) -> int:
    """Do a stage of a run on one rank; torchrun starts this command on each."""
    from thesis_lib.evaluation import final_test, probe_checkpoints
    from thesis_lib.evaluation import retrieve as make_and_test_table
    from thesis_lib.runs.directory import RunDirectory
    from thesis_lib.training import pretrain as train

    config = RunConfig.from_dict(json.loads(options.settings))
    if options.name == "pretrain":
        train(config)
    else:
        works = {"probe": probe_checkpoints, "test": final_test, "retrieve": make_and_test_table}
        works[options.name](RunDirectory(config))
    return 0


def import_checkpoint(options: argparse.Namespace) -> int:
    """Import SupContrast checkpoints as a run."""
    from thesis_lib.training.supcontrast_import import describe_import, import_checkpoints

    settings = given_settings(options)
    run = import_checkpoints(options.files, settings, options.tensorboard)
    print(describe_import(run, options.files, settings))
    print(f"continue with: thesis run {' '.join(as_options(run.config))}")
    return 0
