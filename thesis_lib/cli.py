"""The ``thesis`` command."""

import argparse
import os
import sys
import typing
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from thesis_lib.config import IDENTITY, MACHINE, PRETRAIN, PROBE, InputError, RunConfig, nearest

GRID_FIELDS = ("backbone", "batch_size")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors of the user end in one line and exit status 2, others in 1."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.action(options)
    except InputError as error:
        print(f"thesis: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("thesis: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"thesis: error: {error.strerror or error}{where}", file=sys.stderr)
        return 1


class _Parser(argparse.ArgumentParser):
    """Names the nearest options to an unknown one, in one line."""

    def error(self, message: str) -> typing.NoReturn:
        if message.startswith("unrecognized arguments: -"):
            unknown = message.split()[2].split("=")[0]
            message += nearest(unknown, self._option_string_actions)
        print(f"{self.prog}: error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)

    def parse_args(self, args=None, namespace=None):
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            # Spoken by the subcommand's own parser, which knows the options to name.
            options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="thesis",
        description="Plankton image classification by supervised contrastive learning: "
        "from a folder of class folders to the figures and tables of a thesis.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = _command(commands, "demo", _demo, "the whole workbook on a small real data set")
    demo.add_argument("--data", choices=("digits", "flowcam"), default="digits")
    demo.add_argument("--dry-run", action="store_true", help="print the plan, run nothing")

    split = _command(commands, "split", _split, "split class folders into train, val and test")
    split.add_argument("source", type=Path, help="folder that holds the class folders")
    split.add_argument("destination", type=Path, help="new folder, such as data/NAME")
    split.add_argument("--recipe", choices=("linear-head", "cosine"), default="linear-head")
    split.add_argument("--seed", type=int, default=42)
    split.add_argument("--min-images", type=int, help="leave out classes with fewer images")
    split.add_argument("--exclude", nargs="+", default=[], metavar="CLASS")
    split.add_argument("--copy", action="store_true", help="copy files instead of linking them")

    run = _command(commands, "run", _run, "notebooks 01 to 06 over backbones x batch sizes")
    _add_settings(run, (IDENTITY, PRETRAIN, PROBE, MACHINE), grid=True)
    run.add_argument("--dry-run", action="store_true", help="print the plan, run nothing")

    status = _command(commands, "status", _status, "how far each run has got")
    status.add_argument("--data", help="only runs on this data set")

    pretrain = _command(commands, "pretrain", _pretrain, "stage 1 of one run, without a notebook")
    _add_settings(pretrain, (IDENTITY, PRETRAIN, PROBE, MACHINE))
    probe = _command(commands, "probe", _probe, "stage 2 of one run, without a notebook")
    test = _command(commands, "test", _test, "stage 3 of one run, without a notebook")
    for command in (probe, test):
        command.add_argument("run", nargs="?", help="the run's folder, or name it by the options")
        _add_settings(command, (IDENTITY, PROBE, MACHINE))
    return parser


def _command(commands: Any, name: str, action: Any, help: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
    command.set_defaults(action=action, parser=command)
    return command


def _add_settings(
    parser: argparse.ArgumentParser, stages: tuple[str, ...], grid: bool = False
) -> None:
    """Add an option for each field of RunConfig of the given stages."""
    types = typing.get_type_hints(RunConfig)
    defaults = RunConfig()
    for setting in fields(RunConfig):
        if setting.metadata["stage"] not in stages:
            continue
        annotation = next((t for t in typing.get_args(types[setting.name])), types[setting.name])
        options: dict[str, Any] = {"type": annotation, "metavar": "N"}
        if types[setting.name] in (str, float, int):
            options = {"type": types[setting.name]}
        elif annotation is bool:
            options = {"action": argparse.BooleanOptionalAction}
        elif typing.get_origin(types[setting.name]) is tuple or "tuple" in str(annotation):
            number = float if "float" in str(types[setting.name]) else int
            options = {"type": number, "nargs": "+"}
        if grid and setting.name in GRID_FIELDS:
            options["nargs"] = "+"
        if "action" not in options:
            options["metavar"] = {str: "NAME", float: "X", int: "N"}[options["type"]]
        default = getattr(defaults, setting.name)
        given = "" if default is None or default == "" else f" (default {default})"
        parser.add_argument(
            f"--{setting.name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            help=setting.metadata["help"] + given,
            **options,
        )


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line."""
    return {n: getattr(options, n) for n in RunConfig.field_names() if hasattr(options, n)}


def _demo(options: argparse.Namespace) -> int:
    from thesis_lib.demo import demo_configs, prepare_demo_data
    from thesis_lib.workbook import run_grid

    configs = demo_configs(options.data)
    prepare_demo_data(configs[0].data)
    return _report(run_grid(configs, options.dry_run), configs[0].data_name, options.dry_run)


def _split(options: argparse.Namespace) -> int:
    from thesis_lib.splits import split_dataset

    left_out = split_dataset(
        options.source,
        options.destination,
        options.recipe,
        options.seed,
        options.min_images,
        options.exclude,
        options.copy,
    )
    for name, images in left_out.items():
        print(f"left out: {name!r} ({images} images, fewer than {options.min_images})")
    for part in sorted(p for p in options.destination.iterdir() if p.is_dir()):
        classes = [p for p in part.iterdir() if p.is_dir()]
        images = sum(len(files) for _, _, files in os.walk(part))
        print(f"{part}: {images:,} images of {len(classes)} classes")
    return 0


def _run(options: argparse.Namespace) -> int:
    from thesis_lib.workbook import grid, run_grid

    settings = _settings(options)
    backbones = settings.pop("backbone", [RunConfig.backbone])
    batch_sizes = settings.pop("batch_size", [RunConfig.batch_size])
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

    print("\n".join(status_lines(options.data)))
    return 0


def _pretrain(options: argparse.Namespace) -> int:
    from thesis_lib.pretrain import pretrain
    from thesis_lib.runs import RunDirectory
    from thesis_lib.tables import run_cost

    config = RunConfig.from_dict(_settings(options))
    RunDirectory(config).check_config()
    run = pretrain(config)
    print(f"{run.path.name}: trained for {config.epochs} epochs; {run_cost(run)}")
    return 0


def _find_run(options: argparse.Namespace) -> Any:
    from thesis_lib.runs import RunDirectory, data_runs_folder

    settings = _settings(options)
    if options.run is None:
        return RunDirectory.find(**settings)
    path = Path(options.run)
    if not path.exists() and len(path.parts) == 1:  # a run's name alone, as messages print it
        path = next(iter(sorted(data_runs_folder("").glob(f"*/{path}"))), path)
    found = RunDirectory.open(path)
    identity = {n: getattr(found.config, n) for n in RunConfig.field_names(IDENTITY)}
    return RunDirectory.find(**{"data": found.config.data, **identity, **settings})


def _probe(options: argparse.Namespace) -> int:
    from thesis_lib.probe import choose, probe_checkpoints
    from thesis_lib.tables import percent

    run = _find_run(options)
    chosen = choose(probe_checkpoints(run))
    print(
        f"{run.path.name}: chosen checkpoint {chosen['checkpoint']:.0f}, head epoch "
        f"{chosen['head_epoch']:.0f}: validation accuracy {percent(chosen['val_accuracy'])} %"
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
