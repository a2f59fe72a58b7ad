"""A stage in several processes, one a device: started by torchrun, watched from here."""

import json
import os
import re
import subprocess
import sys
import tempfile
from typing import IO

from thesis_lib import distributed
from thesis_lib.config import InputError
from thesis_lib.hardware import choose_device
from thesis_lib.interruption import EXIT_RESUMABLE, Terminated, sigterm_raises
from thesis_lib.runs import RunDirectory
from thesis_lib.stages import IS_DONE

SECONDS_TO_END = 35.0  # torchrun kills after 30 what does not heed it
MODULE = "thesis_lib.launched"


def share_out(stage: str, run: RunDirectory) -> None:
    """Let as many processes as ``config.devices`` do a stage of a run together, if it is not done.

    What it prints is printed here. A signal is passed on, and what was done is saved.

    Args:
        stage: one of :data:`thesis_lib.stages.STAGES`.
        run: the run.

    Raises:
        InputError: what the processes have told.
    """
    if run.config.devices == 1 or distributed.size() > 1 or IS_DONE[stage](run):
        return
    choose_device(run.config)  # which says whether there are so many
    arguments = ["-m", MODULE, stage, json.dumps(run.config.to_dict())]
    count = ["--standalone", "--nproc-per-node", str(run.config.devices)]
    command = [sys.executable, "-m", "torch.distributed.run", *count, *arguments]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors, sigterm_raises():
        torchrun = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(run.config.devices),
            start_new_session=True,  # a terminal's Ctrl-C comes here alone, and is passed on
        )
        try:
            for line in torchrun.stdout:
                print(line, end="", flush=True)
            status = torchrun.wait()
        except BaseException:
            _end(torchrun)
            raise
        if status:
            raise _failure(errors)


def _environment(devices: int) -> dict[str, str]:
    """What the processes find in their environment: whom they work for, and how many threads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    own = {
        "THESIS_OWNER": str(os.getpid()),
        "THESIS_COMMAND": os.environ.get("THESIS_COMMAND", " ".join(sys.argv)),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // devices))),
    }
    return os.environ | own


def _end(torchrun: subprocess.Popen) -> None:
    """Let the processes save and end; they are not left behind."""
    torchrun.terminate()
    try:
        torchrun.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        torchrun.kill()  # its ranks end with it


def _failure(errors: IO[str]) -> BaseException:
    """What the processes have told, as the error to raise."""
    errors.seek(0)
    text = errors.read()
    told = re.search(r"^thesis: error: (.*)$", text, re.MULTILINE)
    if told:
        return InputError(told[1])
    if "thesis: stopped by SIGTERM" in text:
        return Terminated(EXIT_RESUMABLE)
    print(text, file=sys.stderr)
    return InputError(
        "a process of this run was killed or has ended (too little memory?); the same command goes "
        "on from what is saved"
    )
