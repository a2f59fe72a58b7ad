"""Find the processes that a test has started, and wait for conditions."""

import contextlib
import os
import sys
import time
from pathlib import Path

import psutil

from thesis_lib.system.processes import is_alive

MARK = "THESIS_TEST"  # environment variable that child processes inherit
REPOSITORY = Path(__file__).parent.parent


def processes(mark):
    """Return the running processes with this value of MARK."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and is_alive(process):
                found.append(process)
    return found


def wait_until(condition, seconds):
    """Wait up to some seconds for a condition; return whether it is true."""
    end = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return true


def torchrun_command(*arguments, ranks=2):
    """Return the command that starts ranks on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc-per-node", str(ranks), *map(str, arguments)]


def ranks_environment():
    """Return an environment for ranks with one thread each that import this code."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
