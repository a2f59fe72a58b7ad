"""Run one stage of a run on several ranks; torchrun starts this module."""

import contextlib
import json
import sys
from typing import TextIO, cast

from thesis_lib.cli.command_line import exit_status
from thesis_lib.config import RunConfig
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.retrieval import retrieve
from thesis_lib.evaluation.testing import final_test
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system import distributed
from thesis_lib.training.pretraining import pretrain


def main(stage: str, settings: str) -> int:
    """Run a stage and return the exit status.

    Args:
        stage: one of :data:`thesis_lib.runs.stages.STAGES`.
        settings: settings of the run as JSON.
    """

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
    """Standard output without BrokenPipeError, so that the stage can save if its reader is gone."""

    def write(self, text: str) -> int:
        with contextlib.suppress(BrokenPipeError):
            cast(TextIO, sys.__stdout__).write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            cast(TextIO, sys.__stdout__).flush()

    def isatty(self) -> bool:
        return False


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
