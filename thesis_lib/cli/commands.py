"""What each command of ``thesis`` does: from parsed options to an exit status.

Imports stand inside the functions: torch takes seconds, and `thesis status` has none to spare.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from thesis_lib.cli.options import as_options, asked_of_slurm, given_settings
from thesis_lib.config import IDENTITY, InputError, RunConfig, data_set_name

RECIPE_OPTIONS = ("recipe", "seed", "min_images", "exclude", "group_by")


def demo(options: argparse.Namespace) -> int:
    """Make the demo data set and run the whole workbook on it."""
    from thesis_lib.data.demo import demo_configs, prepare_demo_data
    from thesis_lib.workbook.grid import run_grid

    configs = demo_configs(options.data)
    prepare_demo_data(configs[0].data)
    return _report(run_grid(configs, options.dry_run), configs[0].data_name, options.dry_run)


def split(options: argparse.Namespace) -> int:
    """Split class folders by a recipe or by manifests."""
    from thesis_lib.data.archives import unpacked

    given = {n: v for n in RECIPE_OPTIONS if (v := getattr(options, n)) is not None}
    if options.manifest is None and options.allow_missing:
        raise InputError("--allow-missing goes with --manifest")
    if options.manifest is not None and given:
        option = next(iter(given)).replace("_", "-")
        raise InputError(f"--{option} does not go with --manifest, which tells the split")
    with unpacked(options.source, options.destination) as source:
        if options.manifest is None:
            _split_by_recipe(options, source, given)
        else:
            _split_by_manifest(options, source)
    for part in sorted(p for p in options.destination.iterdir() if p.is_dir()):
        classes = [p for p in part.iterdir() if p.is_dir()]
        images = sum(len(files) for _, _, files in os.walk(part))
        print(f"{part}: {images:,} images of {len(classes)} classes")
    return 0


def _split_by_recipe(options: argparse.Namespace, source: Path, given: dict[str, Any]) -> None:
    from thesis_lib.data.grouped_split import describe_groups
    from thesis_lib.data.splits import split_dataset

    left_out = split_dataset(source, options.destination, copy=options.copy, **given)
    for name, images in left_out.items():
        print(f"left out: {name!r} ({images} images, fewer than {options.min_images})")
    if options.group_by is not None:
        print("\n".join(describe_groups(options.destination / "manifest.csv")))


def _split_by_manifest(options: argparse.Namespace, source: Path) -> None:
    from thesis_lib.data.manifests import split_by_manifest

    report = split_by_manifest(
        source, options.destination, options.manifest, options.copy, options.allow_missing
    )
    for label, found in (
        ("missing, left out", report.missing),
        ("listed more than once, placed once", report.repeated),
        ("in two parts, as published", report.in_two_parts),
    ):
        for image in found:
            print(f"{label}: {image}")
    if report.unlisted:
        print(f"left out: {report.unlisted:,} images of {options.source} that no manifest lists")


def run(options: argparse.Namespace) -> int:
    """Run the notebooks over the grid: here, one run or several at once, or as a cluster's jobs."""
    from thesis_lib.workbook.grid import grid, run_grid

    asked, settings = asked_of_slurm(options), given_settings(options)
    if asked is not None:
        from thesis_lib.workbook.resources import Resources
        from thesis_lib.workbook.slurm import submit_grid

        resources = Resources(**asked)
        settings.setdefault("devices", resources.gpus or RunConfig.devices)
    backbones, batch_sizes = (
        value
        if isinstance(value := settings.pop(name, getattr(RunConfig, name)), list)
        else [value]
        for name in ("backbone", "batch_size")
    )
    configs = grid(settings, backbones, batch_sizes)
    if asked is not None:
        submit_grid(configs, resources, options.dry_run)
        return 0
    run_all = None
    if options.jobs is not None:
        from thesis_lib.workbook.parallel import side_by_side

        run_all = side_by_side(configs, options.jobs)
    failures = run_grid(configs, options.dry_run, run_all)
    return _report(failures, configs[0].data_name, options.dry_run)


def _report(failures: list[str], data_name: str, dry_run: bool) -> int:
    from thesis_lib.runs.directory import data_runs_folder, figures_folder, relative_to_root

    if failures:
        print(f"thesis: error: {len(failures)} failed:", *failures, sep="\n  ", file=sys.stderr)
        return 1
    if not dry_run:
        figures = relative_to_root(figures_folder(data_name))
        runs = relative_to_root(data_runs_folder(data_name))
        print(f"figures and tables: {figures}/   runs and executed notebooks: {runs}/")
    return 0


def status(options: argparse.Namespace) -> int:
    """Print how far each run has got."""
    from thesis_lib.workbook.status import status_lines

    print("\n".join(status_lines(options.data and data_set_name(options.data))))
    return 0


def pretrain(options: argparse.Namespace) -> int:
    """Train one run."""
    from thesis_lib.reporting.tables import run_cost
    from thesis_lib.runs.directory import RunDirectory
    from thesis_lib.training.pretraining import pretrain

    config = RunConfig.from_dict(given_settings(options))
    if not config.force:
        RunDirectory(config).check_config()
    run = pretrain(config)
    print(f"{run.path.name}: trained for {config.epochs} epochs; {run_cost(run)}")
    return 0


def _find_run(options: argparse.Namespace) -> Any:
    from thesis_lib.runs.directory import RunDirectory, data_runs_folder, relative_to_root

    settings = given_settings(options)
    if options.run is None:
        return RunDirectory.find(**settings)
    path = Path(options.run)
    if not path.exists() and len(path.parts) == 1:  # a run's name alone, as messages print it
        named = sorted(data_runs_folder("").glob(f"*/{path}"))
        if len(named) > 1:
            listed = ", ".join(map(relative_to_root, named))
            raise InputError(f"there are several runs {path}, give one's folder: {listed}")
        path = next(iter(named), path)
    found = RunDirectory.open(path)
    identity = {n: getattr(found.config, n) for n in RunConfig.field_names(IDENTITY)}
    return RunDirectory.find(**{"data": found.config.data, **identity, **settings})


def probe(options: argparse.Namespace) -> int:
    """Probe the checkpoints of one run."""
    from thesis_lib.evaluation.probing import choose, probe_checkpoints
    from thesis_lib.reporting.tables import percent_with_interval
    from thesis_lib.system.files import read_json

    run = _find_run(options)
    chosen = choose(probe_checkpoints(run))
    interval = chosen["val_accuracy_low"], chosen["val_accuracy_high"]
    print(
        f"{run.path.name}: chosen checkpoint {chosen['checkpoint']:.0f}, head epoch "
        f"{chosen['head_epoch']:.0f}: validation accuracy "
        f"{percent_with_interval(chosen['val_accuracy'], interval)} %\n"
        f"{read_json(run.selection_file)['against_last']}"
    )
    return 0


def test(options: argparse.Namespace) -> int:
    """Test the chosen checkpoint of one run."""
    from thesis_lib.evaluation.testing import final_test
    from thesis_lib.reporting.tables import percent_with_interval

    run = _find_run(options)
    result = final_test(run)
    shown = percent_with_interval(result["accuracy"], result["accuracy_interval"])
    print(f"{run.path.name}: test accuracy {shown} % of {result['n']:,} images")
    return 0


def retrieve(options: argparse.Namespace) -> int:
    """Make and test the look-up table of one run."""
    from thesis_lib.evaluation.retrieval import retrieve
    from thesis_lib.reporting.tables import percent_with_interval

    run = _find_run(options)
    result = retrieve(run)
    shown = percent_with_interval(result["accuracy"], result["accuracy_interval"])
    print(
        f"{run.path.name}: look-up table of checkpoint {result['checkpoint']} at threshold "
        f"{result['threshold']:.2f}: {result['images']:,} images, {result['index_mib']:.1f} MiB; "
        f"test accuracy {shown} % of {result['n']:,} images"
    )
    return 0


def import_checkpoint(options: argparse.Namespace) -> int:
    """Make a run of SupContrast's checkpoints."""
    from thesis_lib.training.supcontrast_import import describe_import, import_checkpoints

    settings = given_settings(options)
    run = import_checkpoints(options.files, settings, options.tensorboard)
    print(describe_import(run, options.files, settings))
    print(f"go on with: thesis run {' '.join(as_options(run.config))}")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write the chosen model for other programs."""
    from thesis_lib.prediction.export import describe_export, export_run

    run = _find_run(options)
    print(describe_export(export_run(run, options.output), run))
    return 0


def predict(options: argparse.Namespace) -> int:
    """Classify new images by a finished run, or by an export of one."""
    from collections import Counter

    from thesis_lib.prediction.ecotaxa import import_hints, unreadable_file, write_ecotaxa
    from thesis_lib.prediction.new_images import find_images
    from thesis_lib.prediction.predictions import (
        check_output,
        counted,
        predictions,
        write_predictions,
    )

    images, output = find_images(options.images), options.output
    check_output(output, images)
    model = _finished_model(options)
    found = predictions(model, images, options.false_alarms)
    if model.table is None:
        print(f"nearest_image, similarity and looks_unlike stay empty: {model.lacking}")
    counts: Counter[str] = Counter()
    if options.format == "csv":
        write_predictions(counted(found, counts), output, len(model.classes))
        left_out, why, where = counts["unreadable"], "could not be read", "in its column problem"
    else:
        print("".join(f"{hint}\n" for hint in import_hints(images, output)), end="")
        left_out = write_ecotaxa(counted(found, counts), output, images, len(model.classes))
        why, where = "cannot be imported", f"in {unreadable_file(output)}"
    if model.table is not None:
        print(
            f"look unlike all training images: {counts['unlike']:,} ({options.false_alarms:.1%} "
            "of images of the known classes would)"
        )
    problems = f"{left_out:,} {why}, listed {where}" if left_out else "all could be read"
    print(f"{output}: {counts['images']:,} images; {problems}")
    return 0


def _finished_model(options: argparse.Namespace) -> Any:
    from thesis_lib.prediction.finished_model import find_export, open_export, open_run

    folder = find_export(options.run)
    if folder is None:
        return open_run(_find_run(options))
    return open_export(folder, given_settings(options))


def chapter(options: argparse.Namespace) -> int:
    """Write the results chapter of a data set."""
    from thesis_lib.reporting.chapter import write_chapter
    from thesis_lib.reporting.report import meant_data_set
    from thesis_lib.runs.directory import relative_to_root

    document, body = map(relative_to_root, write_chapter(meant_data_set(options.data)))
    print(f"{document}: compile it where it lies (pdflatex or lualatex, twice)")
    print(f"{body}: for a thesis of your own to \\input")
    return 0


def report(options: argparse.Namespace) -> int:
    """Make one HTML file of a data set's executed notebooks."""
    from thesis_lib.reporting.report import describe_report, meant_data_set, write_report

    print(describe_report(write_report(meant_data_set(options.data))))
    return 0


def verify(options: argparse.Namespace) -> int:
    """Hold figures and tables against the runs; status 1 where any no longer agrees."""
    from thesis_lib.reporting.verification import verify as verify_folder

    verdict = verify_folder(options.figures)
    for name in verdict.unknown:
        print(f"not checked: {name}")
    for line in verdict.differ:
        print(f"differs: {line}")
    print(f"{verdict.agree} agree, {len(verdict.differ)} differ, {len(verdict.unknown)} unknown")
    return 1 if verdict.differ else 0
