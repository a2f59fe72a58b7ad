"""Start a stage in several processes with torchrun, one per device, and wait for them."""

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
from thesis_lib.system import distributed, machine, processes
from thesis_lib.system.device import choose_device
from thesis_lib.system.signals import Terminated, sigterm_raises

SECONDS_TO_END = 35.0  # longer than the 30 s after which torchrun kills its processes


def run_under_torchrun(stage: str, run: RunDirectory) -> bool:
    """Run a stage in ``config.devices`` processes, if there is more than one device.

    Their output is printed here. A signal is passed on to them, so that they save and stop.

    Args:
        stage: one of :data:`thesis_lib.runs.stages.STAGES` that is not done yet.
        run: the run that the stage belongs to.

    Returns:
        Whether the processes have done the stage. If not, the caller has to run it itself:
        there is only one device, or this process was started by torchrun already.

    Raises:
        InputError: with the message of the process that failed.
    """
    devices, ranks = run.config.devices, distributed.world_size()
    if ranks > 1 and devices not in (1, ranks):
        raise InputError(
            f"torchrun started {ranks} processes, but devices is {devices}; leave out --devices"
        )
    if devices == 1 or ranks > 1:
        return False
    choose_device(run.config)  # raises if there are fewer devices
    arguments = ["-m", "thesis_lib", "stage", stage, json.dumps(run.config.to_dict())]
    count = ["--standalone", "--nproc-per-node", str(devices)]
    command = [sys.executable, "-m", "torch.distributed.run", *count, *arguments]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors, sigterm_raises():
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(devices),
            start_new_session=True,  # so Ctrl-C reaches only this process, which passes it on
        )
        try:
            for line in process.stdout or ():
                print(line, end="", flush=True)
            status = process.wait()
        except BaseException:
            _end(process)
            raise
        if status:
            raise _failure(errors)
    return True


def _environment(devices: int) -> dict[str, str]:
    """Return the environment of the processes: owner, command, number of threads, quiet logs."""
    own = {
        "THESIS_OWNER": str(os.getpid()),
        "THESIS_COMMAND": os.environ.get("THESIS_COMMAND", " ".join(sys.argv)),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(machine.num_cores(devices))),
    }
    own[processes.QUIET[0]] = os.environ.get(*processes.QUIET)
    # With a notebook's name in the environment, every state of a progress bar would be printed.
    return {n: v for n, v in os.environ.items() if n != "JPY_SESSION_NAME"} | own


def _end(process: subprocess.Popen) -> None:
    """Let torchrun's processes save and stop, and kill them if they take too long."""
    process.terminate()
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()  # the ranks stop with it


def _failure(errors: IO[str]) -> BaseException:
    """Return the exception to raise, from the error output of the processes."""
    errors.seek(0)
    text = errors.read()
    message = re.search(r"^thesis: error: (.*)$", text, re.MULTILINE)
    if message:
        return InputError(message[1])
    if "SignalException" in text:  # torchrun itself received a signal
        return Terminated(signal.SIGTERM)
    print(text, file=sys.stderr)
    return InputError(
        "a process of this run was killed or stopped (out of memory?); run the same command again "
        "to resume from the last save"
    )
