"""The ``thesis`` command."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from thesis_lib.cli import data_commands, result_commands, run_commands
from thesis_lib.cli.options import Parser, add_settings, add_slurm
from thesis_lib.config import FALSE_POSITIVE_RATE, IDENTITY, MACHINE, PRETRAIN, PROBE, RETRIEVE
from thesis_lib.errors import InputError
from thesis_lib.system import processes
from thesis_lib.system.signals import EXIT_RESUMABLE, Terminated, sigterm_raises

# what several processes, started by torchrun, do together
SHARED = (
    *(
        run_commands.pretrain,
        run_commands.probe,
        run_commands.test,
        run_commands.retrieve,
        result_commands.predict,
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors of the user end in one line and exit status 2, others in 1.

    SIGTERM and SIGUSR2 end it with status 75 (try again later), Ctrl-C with 130; what was done
    is saved.
    """
    options = _parser().parse_args(arguments)
    return exit_status(lambda: _act(options))


def exit_status(action: Callable[[], int]) -> int:
    """Do something; what the user can put right, or has interrupted, ends in one line.

    A rank that torchrun has started ends here and now, where it was not done: what is left of its
    ties to other ranks would be waited for.
    """
    status = _exit_status(action)
    if status and processes.under_torchrun():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _exit_status(action: Callable[[], int]) -> int:
    try:
        with sigterm_raises():
            return action()
    except InputError as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from here")
        return 130
    except Terminated as ended:
        _say(f"stopped by {ended.signal.name}; the same command goes on from here")
        return EXIT_RESUMABLE
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _say(f"error: {error.strerror or error}{where}")
        return 1


def _say(message: str) -> None:
    if processes.is_main_process():
        print(f"thesis: {message}", file=sys.stderr)


def _act(options: argparse.Namespace) -> int:
    if not processes.under_torchrun():
        return options.action(options)
    if options.action not in SHARED:
        raise InputError(
            "this command is not for torchrun, which shares pretrain, probe, test, retrieve and "
            "predict alone; start it by itself (thesis run --devices N uses several GPUs)"
        )
    os.environ.setdefault(*processes.QUIET)
    from thesis_lib.system import distributed  # torch takes seconds

    return distributed.run_on_ranks(lambda: options.action(options))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="thesis",
        description="Plankton image classification by supervised contrastive learning: "
        "from a folder of class folders to the figures and tables of a thesis.",
        epilog="Exit status: 0 done; 2 something to put right; 1 a notebook failed, or another "
        "error; 75 stopped by SIGTERM or SIGUSR2, 130 by Ctrl-C, where the same command goes on.",
        allow_abbrev=False,
    )
    added = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = _command(added, "demo", run_commands.demo, "the whole workbook on a small real data set")
    demo.add_argument("--data", choices=("digits", "flowcam"), default="digits")
    demo.add_argument("--dry-run", action="store_true", help="print the plan, run nothing")

    split = _command(
        added, "split", data_commands.split, "split class folders into train, val and test"
    )
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
    split.add_argument(
        "--group-by",
        metavar="REGEX",
        help="keep images together whose names agree in this pattern's group, such as the frame "
        "of DYB-(\\d+)-\\d+",
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

    run = _command(
        added, "run", run_commands.run, "notebooks 01 to 06 over backbones x batch sizes"
    )
    add_settings(run, (IDENTITY, PRETRAIN, PROBE, RETRIEVE, MACHINE), grid=True)
    run.add_argument("--dry-run", action="store_true", help="print the plan, run nothing")
    run.add_argument("--jobs", type=int, metavar="N", help="run N runs at once on this machine")
    add_slurm(run)

    status = _command(added, "status", run_commands.status, "how far each run has got")
    status.add_argument("--data", help="only runs on this data set")

    words = "of one run, without a notebook"
    pretrain = _command(added, "pretrain", run_commands.pretrain, f"stage 1 {words}")
    add_settings(pretrain, (IDENTITY, PRETRAIN, PROBE, MACHINE))
    probe = _command(added, "probe", run_commands.probe, f"stage 2 {words}")
    test = _command(added, "test", run_commands.test, f"stage 3 {words}")
    retrieve = _command(
        added, "retrieve", run_commands.retrieve, f"stage 4 {words}: the cosine look-up table"
    )
    for command in (probe, test, retrieve):
        command.add_argument("run", nargs="?", help="the run's folder, or name it by the options")
        stages = (IDENTITY, PROBE, RETRIEVE) if command is retrieve else (IDENTITY, PROBE)
        add_settings(command, (*stages, MACHINE))

    importer = _command(
        added,
        "import-checkpoint",
        run_commands.import_checkpoint,
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
        added,
        "export",
        result_commands.export,
        "write the chosen model for timm (safetensors) and as ONNX",
    )
    export.add_argument("run", help="the run's folder or name")
    export.add_argument("--output", type=Path, metavar="FOLDER", help="default: RUN/export")

    predict = _command(
        added, "predict", result_commands.predict, "classify new images by a finished run"
    )
    predict.add_argument("run", help="the run's folder or name, or the folder of an export of it")
    predict.add_argument(
        "images", nargs="+", help="folders, files, or patterns such as 'new/**/*.jpg'"
    )
    predict.add_argument("--output", type=Path, required=True, metavar="FILE", help="to write")
    predict.add_argument(
        "--format",
        choices=("csv", "ecotaxa"),
        default="csv",
        help="csv (the default), or a table that EcoTaxa imports with the images: ecotaxa_*.tsv",
    )
    predict.add_argument(
        "--false-positive-rate",
        type=float,
        default=FALSE_POSITIVE_RATE,
        metavar="X",
        help="share of the images like those trained on that may look unlike them "
        f"(default {FALSE_POSITIVE_RATE})",
    )
    predict.add_argument(
        "--device", default=argparse.SUPPRESS, metavar="NAME", help="auto, cpu, cuda or mps"
    )
    predict.add_argument(
        "--workers",
        type=int,
        default=argparse.SUPPRESS,
        metavar="N",
        help="processes that load images; by default from the number of cores",
    )

    for name, action, words in (
        (
            "chapter",
            result_commands.chapter,
            "write chapter.tex: every figure and table, with captions",
        ),
        ("report", result_commands.report, "make one HTML file of a data set's executed notebooks"),
    ):
        command = _command(added, name, action, words)
        command.add_argument("data", nargs="?", help="data set; needed where there are several")
    verify = _command(
        added,
        "verify",
        result_commands.verify,
        "make the tables again and name what no longer agrees",
    )
    verify.add_argument("figures", type=Path, metavar="FIGURES", help="such as figures/NAME")
    return parser


def _command(added: Any, name: str, action: Any, help: str) -> argparse.ArgumentParser:
    command = added.add_parser(name, help=help, description=help, allow_abbrev=False)
    command.set_defaults(action=action, parser=command)
    return command
