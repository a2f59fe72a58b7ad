"""What torchrun starts: a stage of a run, on several ranks."""

import contextlib
import json
import sys

from thesis_lib.cli.command_line import exit_status
from thesis_lib.config import RunConfig
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.retrieval import retrieve
from thesis_lib.evaluation.testing import final_test
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system import distributed
from thesis_lib.training.pretraining import pretrain


def main(stage: str, settings: str) -> int:
    """Do a stage of the run that settings in JSON describe; return its exit status."""

    def do() -> int:
        config = RunConfig.from_dict(json.loads(settings))
        if stage == "pretrain":
            pretrain(config)
        else:
            {"probe": probe_checkpoints, "test": final_test, "retrieve": retrieve}[stage](
                RunDirectory(config)
            )
        return 0

    with contextlib.redirect_stdout(_Output()):
        return exit_status(lambda: distributed.run_on_ranks(do))


class _Output:
    """Standard output; nowhere once its reader is gone, so that what was done is saved first."""

    def write(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            sys.__stdout__.write(text)

    def flush(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            sys.__stdout__.flush()

    def isatty(self) -> bool:
        return False


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
