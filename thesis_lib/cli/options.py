"""Define the command-line options, one for each field of RunConfig, and read their values."""

import argparse
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

from thesis_lib.config import GRID_FIELDS, IDENTITY, RunConfig
from thesis_lib.data.sources import FORMATS, STATUSES
from thesis_lib.errors import InputError, nearest
from thesis_lib.system import processes
from thesis_lib.workbook.parameters import read_settings, typed

METAVARS = {"bool": "", "float": "X", "int": "N", "str": "NAME"}
SLURM_OPTIONS = ("partition", "gpus", "cpus", "time", "mem", "light_partition", "sbatch")


class Parser(argparse.ArgumentParser):
    """An argument parser with one-line errors that suggest similar options."""

    def error(self, message: str) -> typing.NoReturn:
        """Print an error in one line and exit with status 2."""
        if message.startswith("unrecognized arguments: -"):
            unknown = message.split()[2].split("=")[0]
            message += nearest(unknown, self._option_string_actions)
        processes.report_error(f"{self.prog}: error: {message}; see {self.prog} --help")
        raise SystemExit(2)

    # Its stub has overloads for other namespaces, which this program never passes.
    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:  # type: ignore[override]
        """Parse the command line; an unknown option is an error of its subcommand."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            # Let the subcommand's parser report it, which knows the similar options.
            options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options


def add_settings(
    parser: argparse.ArgumentParser,
    stages: tuple[str, ...],
    grid: bool = False,
    defaults: bool = True,
) -> None:
    """Add an option for each RunConfig field of the given stages.

    Args:
        parser: parser of the command.
        stages: stages whose fields become options.
        grid: accept several values for ``GRID_FIELDS``, and a settings file.
        defaults: show the default values in the help.
    """
    types = typing.get_type_hints(RunConfig)
    config = RunConfig()
    several = "; several are compared as splits of the same images" if grid else ""
    if grid:
        parser.add_argument(
            "--settings",
            type=Path,
            metavar="YAML",
            help="file with these settings, such as 'batch_size: [32, 64]'; options override it",
        )
    for setting in fields(RunConfig):
        if setting.metadata["stage"] not in stages:
            continue
        kind = str(types[setting.name])
        options: dict[str, Any] = {"metavar": next(METAVARS[t] for t in METAVARS if t in kind)}
        if "bool" in kind:
            options = {"action": argparse.BooleanOptionalAction}
        elif "tuple" in kind or (grid and setting.name in ("data", *GRID_FIELDS)):
            options["nargs"] = "+"
        default = getattr(config, setting.name)
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        given = f" (default {shown})" if defaults and default not in (None, "") else ""
        parser.add_argument(
            f"--{setting.name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            help=setting.metadata["help"] + (several if setting.name == "data" else "") + given,
            **options,
        )


def add_split(split: argparse.ArgumentParser) -> None:
    """Add the arguments of ``thesis split``."""
    split.add_argument(
        "source",
        type=Path,
        help="folder with one folder per class, an EcoTaxa export, a learning set, or such folders "
        "per year or split; a zip or tar of it; or a table of images and labels",
    )
    split.add_argument("destination", type=Path, help="new folder, such as data/NAME")
    split.add_argument(
        "--recipe",
        choices=("linear-head", "cosine"),
        help="linear-head (the default): 70 / 15 / 15 %% train, val, test; cosine: 80 / 20 %% "
        "train, test",
    )
    split.add_argument(
        "--seed",
        type=int,
        nargs="+",
        metavar="N",
        help="seed of the recipe (default 42); several make the splits DESTINATION-seed1 ...",
    )
    split.add_argument(
        "--folds",
        type=int,
        metavar="K",
        help="cross-validation: make the splits DESTINATION-fold1 ... -foldK, in which each image "
        "is in the test split once",
    )
    split.add_argument(
        "--min-images", type=int, metavar="N", help="leave out classes with fewer images"
    )
    split.add_argument(
        "--group-by",
        metavar="REGEX",
        help="keep images in the same split if this pattern's group matches the same text in "
        "their names, such as the frame number in DYB-(\\d+)-\\d+",
    )
    split.add_argument(
        "--group-by-column",
        metavar="COLUMN",
        help="keep images with the same value in this column of the source's table, such as "
        "sample_id, in the same split",
    )
    split.add_argument(
        "--test-group",
        nargs="+",
        metavar="GROUP",
        help="with --group-by or --group-by-column: these groups, such as a year, are the test "
        "split",
    )
    split.add_argument("--exclude", nargs="+", metavar="CLASS", help="leave out these classes")
    split.add_argument(
        "--format",
        choices=FORMATS,
        help="format of the source, in case it is not recognised correctly",
    )
    split.add_argument(
        "--status",
        nargs="+",
        choices=STATUSES,
        help="take objects with these statuses from an EcoTaxa export (default: validated)",
    )
    split.add_argument(
        "--all-images",
        action="store_true",
        help="take all images of each object of an EcoTaxa export, and keep them in one split "
        "(default: one image per object)",
    )
    split.add_argument(
        "--classes",
        type=Path,
        metavar="CSV",
        help="table with the columns from,to that renames or merges classes; an empty to drops one",
    )
    for name, what in (
        ("path", "path of each image"),
        ("label", "class of each image"),
        ("split", "split of each image, to take it over"),
    ):
        split.add_argument(
            f"--{name}-column", metavar="COLUMN", help=f"column of a table with the {what}"
        )
    split.add_argument(
        "--published-split",
        action="store_true",
        help="take over the split that the source comes with",
    )
    split.add_argument(
        "--manifest",
        nargs="+",
        type=Path,
        metavar="CSV",
        help="rebuild a published split from its files for train val test (or train test): tables "
        "with the columns folder,filename, or text files with a path in each line",
    )
    split.add_argument(
        "--allow-missing", action="store_true", help="with --manifest: leave out missing files"
    )
    split.add_argument(
        "--pixel-size",
        metavar="UM",
        help="micrometres per pixel, or the column that holds them, such as process_pixel: "
        "adds each organism's length in mm to manifest.csv",
    )
    split.add_argument(
        "--crop-bottom",
        type=int,
        default=0,
        metavar="ROWS",
        help="rows of a burnt-in legend or scale bar that all later steps cut off the bottom of "
        "each image; the files stay whole",
    )
    split.add_argument("--copy", action="store_true", help="copy the files instead of linking them")


def add_slurm(run: argparse.ArgumentParser) -> None:
    """Add the options for a Slurm cluster to ``thesis run``."""
    group = run.add_argument_group("on a Slurm cluster")
    group.add_argument(
        "--slurm",
        action="store_true",
        help="submit one job per run, and one each for notebooks 01 and 06, instead of running "
        "here",
    )
    group.add_argument("--partition", metavar="NAME", help="partition to submit the jobs to")
    group.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="GPUs per run, which share each batch (sets --devices)",
    )
    group.add_argument("--cpus", type=int, metavar="N", help="cores per job")
    group.add_argument(
        "--time",
        metavar="HH:MM:SS",
        help="time limit per job; a run that takes longer continues in further jobs automatically",
    )
    group.add_argument("--mem", metavar="SIZE", help="memory per job, such as 32G")
    group.add_argument(
        "--light-partition",
        metavar="NAME",
        help="partition for the jobs of notebooks 01 and 06, which need no GPU (default: "
        "--partition)",
    )
    group.add_argument(
        "--sbatch",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        help="further options of sbatch, such as account=plankton qos=long",
    )


def asked_of_slurm(options: argparse.Namespace) -> dict[str, Any] | None:
    """Return the given Slurm options; None without --slurm.

    Raises:
        InputError: if options cannot be combined.
    """
    given = {n: v for n in SLURM_OPTIONS if (v := getattr(options, n)) is not None}
    if not options.slurm:
        if given:
            raise InputError(f"--{next(iter(given)).replace('_', '-')} needs --slurm")
        return None
    if options.jobs is not None:
        raise InputError("--jobs cannot be used with --slurm, which decides how many jobs run")
    return given


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings given in the settings file and, overriding it, on the command line."""
    file = getattr(options, "settings", None)
    from_file = {} if file is None else read_settings(file)
    given = {n: getattr(options, n) for n in RunConfig.field_names() if hasattr(options, n)}
    return from_file | typed(given)


def find_run(options: argparse.Namespace) -> Any:
    """Find the run of a command by its name, ``<data>/<name>``, its path or its settings.

    Raises:
        InputError: if there is no such run, or several runs have this name.
    """
    from thesis_lib.runs.directory import RunDirectory, data_folders
    from thesis_lib.system.paths import relative_to_root

    settings = given_settings(options)
    if options.run is None:
        return RunDirectory.find(**settings)
    path = Path(options.run)
    if not path.exists() and len(path.parts) == 1:  # only a run's name, as messages print it
        named = [run for folder in data_folders() if (run := folder / path).exists()]
        if len(named) > 1:
            listed = ", ".join(map(relative_to_root, named))
            raise InputError(f"there are several runs {path}; give the folder of one: {listed}")
        path = next(iter(named), path)
    found = RunDirectory.open(path)
    identity = {n: getattr(found.config, n) for n in RunConfig.field_names(IDENTITY)}
    return RunDirectory.find(**{"data": found.config.data, **identity, **settings})
