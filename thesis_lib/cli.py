"""The ``thesis`` command."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thesis_lib.config import (
    IDENTITY,
    MACHINE,
    PRETRAIN,
    PROBE,
    InputError,
    RunConfig,
    data_set_name,
)
from thesis_lib.interruption import EXIT_RESUMABLE, Terminated, sigterm_raises
from thesis_lib.options import Parser, add_settings, as_options, given_settings

RECIPE_OPTIONS = ("recipe", "seed", "min_images", "exclude")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors of the user end in one line and exit status 2, others in 1.

    SIGTERM ends it with status 75 (try again later), Ctrl-C with 130; what was done is saved.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        with sigterm_raises():
            return options.action(options)
    except InputError as error:
        print(f"thesis: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("thesis: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Terminated:
        print("thesis: stopped by SIGTERM; the same command goes on from here", file=sys.stderr)
        return EXIT_RESUMABLE
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"thesis: error: {error.strerror or error}{where}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="thesis",
        description="Plankton image classification by supervised contrastive learning: "
        "from a folder of class folders to the figures and tables of a thesis.",
        epilog="Exit status: 0 done; 2 something to put right; 1 a notebook failed, or another "
        "error; 75 stopped by SIGTERM and 130 by Ctrl-C, where the same command goes on.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = _command(commands, "demo", _demo, "the whole workbook on a small real data set")
    demo.add_argument("--data", choices=("digits", "flowcam"), default="digits")
    demo.add_argument("--dry-run", action="store_true", help="print the plan, run nothing")

    split = _command(commands, "split", _split, "split class folders into train, val and test")
    split.add_argument("source", type=Path, help="folder of class folders, or a zip or tar of it")
    split.add_argument("destination", type=Path, help="new folder, such as data/NAME")
    split.add_argument(
        "--recipe",
        choices=("linear-head", "cosine"),
        help="70 / 15 / 15 train, val, test (linear-head, the default) or 80 / 20 train, test",
    )
    split.add_argument("--seed", type=int, metavar="N", help="of the recipe (default 42)")
    split.add_argument(
        "--min-images", type=int, metavar="N", help="leave out classes with fewer images"
    )
    split.add_argument("--exclude", nargs="+", metavar="CLASS", help="leave out these classes")
    split.add_argument(
        "--manifest",
        nargs="+",
        type=Path,
        metavar="CSV",
        help="rebuild a published split: its files train val test (or train test), each with "
        "the columns folder,filename",
    )
    split.add_argument(
        "--allow-missing", action="store_true", help="--manifest: leave out files that are missing"
    )
    split.add_argument("--copy", action="store_true", help="copy files instead of linking them")

    run = _command(commands, "run", _run, "notebooks 01 to 06 over backbones x batch sizes")
    add_settings(run, (IDENTITY, PRETRAIN, PROBE, MACHINE), grid=True)
    run.add_argument("--dry-run", action="store_true", help="print the plan, run nothing")

    status = _command(commands, "status", _status, "how far each run has got")
    status.add_argument("--data", help="only runs on this data set")

    pretrain = _command(commands, "pretrain", _pretrain, "stage 1 of one run, without a notebook")
    add_settings(pretrain, (IDENTITY, PRETRAIN, PROBE, MACHINE))
    probe = _command(commands, "probe", _probe, "stage 2 of one run, without a notebook")
    test = _command(commands, "test", _test, "stage 3 of one run, without a notebook")
    for command in (probe, test):
        command.add_argument("run", nargs="?", help="the run's folder, or name it by the options")
        add_settings(command, (IDENTITY, PROBE, MACHINE))

    importer = _command(
        commands,
        "import-checkpoint",
        _import,
        "make a run of SupContrast's checkpoints; settings that are not given are the files' own",
    )
    importer.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="ckpt_epoch_50.pth ... last.pth"
    )
    importer.add_argument(
        "--tensorboard", type=Path, metavar="FOLDER", help="SupContrast's logs, for the losses"
    )
    add_settings(importer, (IDENTITY, PRETRAIN, PROBE, MACHINE), defaults=False)

    export = _command(
        commands, "export", _export, "write the chosen model for timm (safetensors) and as ONNX"
    )
    export.add_argument("run", help="the run's folder or name")
    export.add_argument("--output", type=Path, metavar="FOLDER", help="default: RUN/export")
    return parser


def _command(commands: Any, name: str, action: Any, help: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
    command.set_defaults(action=action, parser=command)
    return command


def _demo(options: argparse.Namespace) -> int:
    from thesis_lib.demo import demo_configs, prepare_demo_data
    from thesis_lib.workbook import run_grid

    configs = demo_configs(options.data)
    prepare_demo_data(configs[0].data)
    return _report(run_grid(configs, options.dry_run), configs[0].data_name, options.dry_run)


def _split(options: argparse.Namespace) -> int:
    from thesis_lib.archives import unpacked

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
    from thesis_lib.splits import split_dataset

    left_out = split_dataset(source, options.destination, copy=options.copy, **given)
    for name, images in left_out.items():
        print(f"left out: {name!r} ({images} images, fewer than {options.min_images})")


def _split_by_manifest(options: argparse.Namespace, source: Path) -> None:
    from thesis_lib.manifests import split_by_manifest

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


def _run(options: argparse.Namespace) -> int:
    from thesis_lib.workbook import grid, run_grid

    settings = given_settings(options)
    backbones, batch_sizes = (
        value
        if isinstance(value := settings.pop(name, getattr(RunConfig, name)), list)
        else [value]
        for name in ("backbone", "batch_size")
    )
    configs = grid(settings, backbones, batch_sizes)
    return _report(run_grid(configs, options.dry_run), configs[0].data_name, options.dry_run)


def _report(failures: list[str], data_name: str, dry_run: bool) -> int:
    from thesis_lib.runs import data_runs_folder, figures_folder, relative_to_root

    if failures:
        print(f"thesis: error: {len(failures)} failed:", *failures, sep="\n  ", file=sys.stderr)
        return 1
    if not dry_run:
        figures = relative_to_root(figures_folder(data_name))
        runs = relative_to_root(data_runs_folder(data_name))
        print(f"figures and tables: {figures}/   runs and executed notebooks: {runs}/")
    return 0


def _status(options: argparse.Namespace) -> int:
    from thesis_lib.status import status_lines

    print("\n".join(status_lines(options.data and data_set_name(options.data))))
    return 0


def _pretrain(options: argparse.Namespace) -> int:
    from thesis_lib.pretrain import pretrain
    from thesis_lib.runs import RunDirectory
    from thesis_lib.tables import run_cost

    config = RunConfig.from_dict(given_settings(options))
    if not config.force:
        RunDirectory(config).check_config()
    run = pretrain(config)
    print(f"{run.path.name}: trained for {config.epochs} epochs; {run_cost(run)}")
    return 0


def _find_run(options: argparse.Namespace) -> Any:
    from thesis_lib.runs import RunDirectory, data_runs_folder, relative_to_root

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


def _probe(options: argparse.Namespace) -> int:
    from thesis_lib.files import read_json
    from thesis_lib.probe import choose, probe_checkpoints
    from thesis_lib.tables import percent_with_interval

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


def _test(options: argparse.Namespace) -> int:
    from thesis_lib.final_test import final_test
    from thesis_lib.tables import percent_with_interval

    run = _find_run(options)
    result = final_test(run)
    shown = percent_with_interval(result["accuracy"], result["accuracy_interval"])
    print(f"{run.path.name}: test accuracy {shown} % of {result['n']:,} images")
    return 0


def _import(options: argparse.Namespace) -> int:
    from thesis_lib.import_run import describe_import, import_checkpoints

    settings = given_settings(options)
    run = import_checkpoints(options.files, settings, options.tensorboard)
    print(describe_import(run, options.files, settings))
    print(f"go on with: thesis run {' '.join(as_options(run.config))}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from thesis_lib.export import describe_export, export_run

    run = _find_run(options)
    print(describe_export(export_run(run, options.output), run))
    return 0
