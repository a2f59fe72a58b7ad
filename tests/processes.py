"""The processes that a test has started: found wherever they have got to, and waited for."""

import contextlib
import os
import sys
import time
from pathlib import Path

import psutil

from thesis_lib.system.processes import is_alive

MARK = "THESIS_TEST"  # an environment variable, which children inherit
REPOSITORY = Path(__file__).parent.parent


def processes(mark):
    """Those that run with this value of MARK."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and is_alive(process):
                found.append(process)
    return found


def wait_until(condition, seconds):
    """Whether a condition has come true within some seconds."""
    end = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return true


def torchrun_command(*arguments, ranks=2):
    """What starts ranks on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc-per-node", str(ranks), *map(str, arguments)]


def ranks_environment():
    """The environment of ranks of one thread each, which find this code."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
