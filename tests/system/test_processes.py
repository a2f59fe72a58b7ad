"""A process saves and stops when its owner is gone, even if it ignores SIGTERM or is stuck."""

import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from thesis_lib.system import processes as module

WORKER = """
    import os, signal, subprocess, sys, time
    from thesis_lib.system import processes as module
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    if sys.argv[2] == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), child.pid, flush=True)
    module.exit_with_parent(int(sys.argv[1]))
    time.sleep(600)
"""


def started(owner: int, kind: str) -> tuple[subprocess.Popen, list[psutil.Process]]:
    command = [sys.executable, "-c", textwrap.dedent(WORKER), str(owner), kind]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return worker, [psutil.Process(int(pid)) for pid in worker.stdout.readline().split()]


@pytest.mark.parametrize(("kind", "end"), [("obeys", signal.SIGTERM), ("deaf", signal.SIGKILL)])
def test_a_process_ends_with_its_owner(kind, end):
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    worker, processes = started(owner.pid, kind)
    try:
        time.sleep(1)
        assert worker.poll() is None  # it runs as long as its owner
        owner.kill()  # not waited for, so it becomes a zombie, which counts as gone
        assert worker.wait(9.5) == -end
        if kind == "deaf":  # its children are killed with it
            time.sleep(0.5)
            assert not any(map(module.is_alive, processes))
    finally:
        owner.wait()
        for process in processes:
            if process.is_running():
                process.kill()


def test_an_owner_that_is_gone_already_ends_it_at_once():
    owner = subprocess.Popen([sys.executable, "-c", ""])
    owner.wait()
    worker, processes = started(owner.pid, "obeys")
    try:
        assert worker.wait(5) == -signal.SIGTERM
    finally:
        processes[1].kill()


STUCK = """
    import hashlib, sys, time
    from thesis_lib.system import processes as module
    module.kill_when_stuck(seconds=2)
    print(flush=True)
    if sys.argv[1] == "stuck":
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # a call of half an hour
    while True:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("kind", ["stuck", "moves"])
def test_a_process_that_is_stuck_in_a_call_is_killed_after_sigterm(kind):
    deaf = "import signal; signal.signal(signal.SIGTERM, lambda *_: None)\n"
    command = [sys.executable, "-c", deaf + textwrap.dedent(STUCK), kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        time.sleep(0.5)
        assert process.poll() is None
        process.terminate()
        if kind == "stuck":
            assert process.wait(5) == -signal.SIGKILL
        else:  # it still runs signal handlers, so it is not killed
            time.sleep(4)
            assert process.poll() is None
    finally:
        process.kill()
