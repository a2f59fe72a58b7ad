"""A stage in several processes, one a device: started by torchrun, watched from here."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from typing import IO

from thesis_lib.errors import InputError
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system import distributed, processes
from thesis_lib.system.device import choose_device
from thesis_lib.system.signals import Terminated, sigterm_raises

SECONDS_TO_END = 35.0  # torchrun kills after 30 what does not heed it
MODULE = "thesis_lib.cli.launched"


def run_under_torchrun(stage: str, run: RunDirectory) -> bool:
    """Let as many processes as ``config.devices`` do a stage of a run together.

    What they print is printed here. A signal is passed on, and what was done is saved.

    Args:
        stage: one of :data:`thesis_lib.runs.stages.STAGES`, and not done.
        run: the run.

    Returns:
        Whether they have done it; if not, it is this process's to do.

    Raises:
        InputError: what the processes have told.
    """
    devices, ranks = run.config.devices, distributed.world_size()
    if ranks > 1 and devices not in (1, ranks):
        raise InputError(
            f"torchrun has started {ranks} processes, and devices is {devices}; leave --devices out"
        )
    if devices == 1 or ranks > 1:
        return False
    choose_device(run.config)  # which says whether there are so many
    arguments = ["-m", MODULE, stage, json.dumps(run.config.to_dict())]
    count = ["--standalone", "--nproc-per-node", str(devices)]
    command = [sys.executable, "-m", "torch.distributed.run", *count, *arguments]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors, sigterm_raises():
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(devices),
            start_new_session=True,  # a terminal's Ctrl-C comes here alone, and is passed on
        )
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
            status = process.wait()
        except BaseException:
            _end(process)
            raise
        if status:
            raise _failure(errors)
    return True


def _environment(devices: int) -> dict[str, str]:
    """What the processes find in their environment: whom they work for, and how many threads."""
    own = {
        "THESIS_OWNER": str(os.getpid()),
        "THESIS_COMMAND": os.environ.get("THESIS_COMMAND", " ".join(sys.argv)),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(processes.num_cores(devices))),
    }
    own[processes.QUIET[0]] = os.environ.get(*processes.QUIET)
    # The name of a notebook that is open would have each of a progress bar's states printed.
    return {n: v for n, v in os.environ.items() if n != "JPY_SESSION_NAME"} | own


def _end(process: subprocess.Popen) -> None:
    """Let torchrun's processes save and end; they are not left behind."""
    process.terminate()
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()  # the ranks end with it


def _failure(errors: IO[str]) -> BaseException:
    """What the processes have told, as the error to raise."""
    errors.seek(0)
    text = errors.read()
    told = re.search(r"^thesis: error: (.*)$", text, re.MULTILINE)
    if told:
        return InputError(told[1])
    if "SignalException" in text:  # torchrun's, where somebody else has told it to end
        return Terminated(signal.SIGTERM)
    print(text, file=sys.stderr)
    return InputError(
        "a process of this run was killed or has ended (too little memory?); the same command goes "
        "on from what is saved"
    )
