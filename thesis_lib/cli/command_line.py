"""Parse the command line of ``thesis``, run the command and return its exit status."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from thesis_lib.cli import data_commands, result_commands, run_commands
from thesis_lib.cli.options import Parser, add_settings, add_slurm, add_split
from thesis_lib.config import FALSE_POSITIVE_RATE, IDENTITY, MACHINE, PRETRAIN, PROBE, RETRIEVE
from thesis_lib.errors import InputError
from thesis_lib.runs.stages import STAGES
from thesis_lib.system import processes
from thesis_lib.system.signals import EXIT_RESUMABLE, Terminated, sigterm_raises

# commands that several processes started by torchrun can share
SHARED = (
    run_commands.pretrain,
    run_commands.probe,
    run_commands.test,
    run_commands.retrieve,
    run_commands.stage,
    result_commands.predict,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    The status is 2 for a mistake of the user (InputError, one line) and 1 for other errors. After
    SIGTERM or SIGUSR2 it is 75 ("try again later"), after Ctrl-C 130; finished work is saved.
    """
    given = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # names may have letters that a terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if not given:
        _parser().print_help()
        return 0
    options = _parser().parse_args(given)
    return _exit_status(lambda: _act(options))


def _exit_status(action: Callable[[], int]) -> int:
    """Run an action, print errors and interruptions as one line, and return the exit status.

    After a failure under torchrun, the process exits immediately: destroying the process group
    could wait forever for other ranks.
    """
    status = _reported(action)
    if status and processes.under_torchrun():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _reported(action: Callable[[], int]) -> int:
    try:
        with sigterm_raises():
            return action()
    except InputError as error:
        processes.report_error(f"thesis: error: {error}")
        return 2
    except KeyboardInterrupt:
        _say("interrupted; run the same command again to resume")
        return 130
    except Terminated as ended:
        _say(f"stopped by {ended.signal.name}; run the same command again to resume")
        return EXIT_RESUMABLE
    except MemoryError:
        advice = "close other programs, or use a machine with more memory"
        processes.report_error(f"thesis: error: out of memory; {advice}")
        return 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        processes.report_error(f"thesis: error: {error.strerror or error}{where}")
        return 1


def _say(message: str) -> None:
    if processes.is_main_process():
        print(f"thesis: {message}", file=sys.stderr)


def _act(options: argparse.Namespace) -> int:
    if not processes.under_torchrun():
        return options.action(options)
    if options.action not in SHARED:
        raise InputError(
            "this command cannot run under torchrun, only pretrain, probe, test, retrieve and "
            "predict can; run it without torchrun (thesis run --devices N uses several GPUs)"
        )
    os.environ.setdefault(*processes.QUIET)
    from thesis_lib.system import distributed  # imported late, as torch is slow to load

    return distributed.run_on_ranks(lambda: options.action(options))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="thesis",
        description="Plankton image classification by supervised contrastive learning: "
        "from a folder with one folder per class to the figures and tables of a thesis.",
        epilog="Exit status: 0 done; 2 a mistake in the input; 1 a notebook failed, or another "
        "error; 75 stopped by SIGTERM or SIGUSR2; 130 stopped by Ctrl-C. After 75 or 130, run the "
        "same command again to resume.",
        allow_abbrev=False,
    )
    version = f"thesis-workbook {metadata.version('thesis-workbook')}"
    parser.add_argument("--version", action="version", version=version)
    added = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = _command(
        added, "demo", run_commands.demo, "run the whole workbook on a small real data set"
    )
    demo.add_argument(
        "--data", choices=("digits", "flowcam"), default="digits", help="default: digits"
    )
    demo.add_argument("--dry-run", action="store_true", help="only print the plan")

    split = _command(
        added, "split", data_commands.split, "split labelled images into train, val and test"
    )
    add_split(split)

    run = _command(added, "run", run_commands.run, "run the notebooks over a grid of runs")
    add_settings(run, (IDENTITY, PRETRAIN, PROBE, RETRIEVE, MACHINE), grid=True)
    run.add_argument("--dry-run", action="store_true", help="only print the plan")
    run.add_argument("--jobs", type=int, metavar="N", help="execute N runs at once on this machine")
    add_slurm(run)

    status = _command(added, "status", run_commands.status, "show the state of each run")
    status.add_argument("--data", help="show only runs on this data set")

    clean = _command(
        added,
        "clean",
        run_commands.clean,
        "remove files that finished runs no longer need, such as checkpoints before the plateau",
    )
    clean.add_argument("--data", help="clean only runs on this data set")
    clean.add_argument("--dry-run", action="store_true", help="only list the files")

    pretrain = _command(
        added, "pretrain", run_commands.pretrain, "stage 1 without a notebook: pretrain a run"
    )
    add_settings(pretrain, (IDENTITY, PRETRAIN, PROBE, MACHINE))
    probe = _command(
        added,
        "probe",
        run_commands.probe,
        "stage 2 without a notebook: probe the checkpoints of a run",
    )
    test = _command(
        added,
        "test",
        run_commands.test,
        "stage 3 without a notebook: test the selected checkpoint; `thesis test RUN --data OTHER` "
        "tests it on another labelled data set",
    )
    retrieve = _command(
        added,
        "retrieve",
        run_commands.retrieve,
        "stage 4 without a notebook: make and test the cosine look-up table",
    )
    for command in (probe, test, retrieve):
        command.add_argument(
            "run", nargs="?", help="name or folder of the run; or give its settings"
        )
        stages = (IDENTITY, PROBE, RETRIEVE) if command is retrieve else (IDENTITY, PROBE)
        add_settings(command, (*stages, MACHINE))

    # Not in the help: training.launcher starts it on every rank.
    stage = added.add_parser("stage", allow_abbrev=False)
    stage.set_defaults(action=run_commands.stage, parser=stage)
    stage.add_argument("name", choices=STAGES)
    stage.add_argument("settings", help="settings of the run as JSON")

    importer = _command(
        added,
        "import-checkpoint",
        run_commands.import_checkpoint,
        "import SupContrast checkpoints as a run; settings not given are read from the files",
    )
    importer.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="ckpt_epoch_50.pth ... last.pth"
    )
    importer.add_argument(
        "--tensorboard",
        type=Path,
        metavar="FOLDER",
        help="SupContrast's TensorBoard logs, to read the losses from",
    )
    add_settings(importer, (IDENTITY, PRETRAIN, PROBE, MACHINE), defaults=False)

    export = _command(
        added,
        "export",
        result_commands.export,
        "write the selected model for timm (safetensors) and as ONNX",
    )
    export.add_argument("run", help="name or folder of the run")
    export.add_argument("--output", type=Path, metavar="FOLDER", help="default: RUN/export")

    predict = _command(
        added, "predict", result_commands.predict, "classify new images with a finished run"
    )
    predict.add_argument("run", help="name or folder of the run, or folder of its export")
    predict.add_argument(
        "images", nargs="+", help="folders, files, or patterns such as 'new/**/*.jpg'"
    )
    predict.add_argument("--output", type=Path, required=True, metavar="FILE", help="file to write")
    predict.add_argument(
        "--format",
        choices=("csv", "ecotaxa"),
        default="csv",
        help="csv (the default), or ecotaxa: a table ecotaxa_*.tsv to import into EcoTaxa with the "
        "images",
    )
    predict.add_argument(
        "--false-positive-rate",
        type=float,
        default=FALSE_POSITIVE_RATE,
        metavar="X",
        help="fraction of images of known classes that may be called unknown "
        f"(default {FALSE_POSITIVE_RATE})",
    )
    predict.add_argument(
        "--wanted-precision",
        type=float,
        metavar="X",
        help="fraction of the labels that shall be right, such as 0.95: images with too low a "
        "confidence stay unclassified; by default none does",
    )
    predict.add_argument(
        "--device", default=argparse.SUPPRESS, metavar="NAME", help="auto, cpu, cuda or mps"
    )
    predict.add_argument(
        "--workers",
        type=int,
        default=argparse.SUPPRESS,
        metavar="N",
        help="number of workers that load images; by default from the number of cores",
    )

    for name, action, words in (
        (
            "chapter",
            result_commands.chapter,
            "write chapter.tex: every figure and table, with captions",
        ),
        (
            "report",
            result_commands.report,
            "put a data set's executed notebooks into one HTML file",
        ),
    ):
        command = _command(added, name, action, words)
        command.add_argument(
            "data", nargs="?", help="name or path of the data set, if there are several"
        )
    verify = _command(
        added,
        "verify",
        result_commands.verify,
        "recompute figures and tables and list those that no longer agree",
    )
    verify.add_argument("figures", type=Path, metavar="FIGURES", help="folder such as figures/NAME")
    return parser


def _command(added: Any, name: str, action: Any, help: str) -> argparse.ArgumentParser:
    command = added.add_parser(name, help=help, description=help, allow_abbrev=False)
    command.set_defaults(action=action, parser=command)
    return command
