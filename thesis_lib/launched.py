"""What torchrun starts for :mod:`thesis_lib.launcher`: a stage of a run, on several ranks."""

import json
import sys

from thesis_lib import distributed
from thesis_lib.cli import exit_status
from thesis_lib.config import RunConfig
from thesis_lib.final_test import final_test
from thesis_lib.pretrain import pretrain
from thesis_lib.probe import probe_checkpoints
from thesis_lib.retrieval import retrieve
from thesis_lib.runs import RunDirectory


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

    return exit_status(lambda: distributed.on_ranks(do))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
