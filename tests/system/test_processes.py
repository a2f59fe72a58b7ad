"""A process ends with the one that it works for, after saving, even if it will not hear."""

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
    module.end_with(int(sys.argv[1]))
    time.sleep(600)
"""


def started(owner: int, kind: str) -> tuple[subprocess.Popen, list[psutil.Process]]:
    command = [sys.executable, "-c", textwrap.dedent(WORKER), str(owner), kind]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return worker, [psutil.Process(int(pid)) for pid in worker.stdout.readline().split()]


@pytest.mark.parametrize(("kind", "end"), [("heeds", signal.SIGTERM), ("deaf", signal.SIGKILL)])
def test_a_process_ends_with_its_owner(kind, end):
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    worker, processes = started(owner.pid, kind)
    try:
        time.sleep(1)
        assert worker.poll() is None  # while its owner lives, so does it
        owner.kill()  # and nobody waits for it: a zombie is no owner
        assert worker.wait(9.5) == -end
        if kind == "deaf":  # what it had started goes with it
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
    worker, processes = started(owner.pid, "heeds")
    try:
        assert worker.wait(5) == -signal.SIGTERM
    finally:
        processes[1].kill()


STUCK = """
    import hashlib, sys, time
    from thesis_lib.system import processes as module
    module.end_when_stuck(seconds=2)
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
        else:  # it obeys in its own time
            time.sleep(4)
            assert process.poll() is None
    finally:
        process.kill()
