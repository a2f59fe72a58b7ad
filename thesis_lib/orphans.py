"""No process outlives the one that it works for, however that one ended."""

import os
import signal
import threading
import time

import psutil

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_SAVE = 6.0


def end_with(owner: int, seconds: float = SECONDS_TO_SAVE) -> None:
    """Watch a process of this machine; once it is gone, this one saves and ends.

    It gets SIGTERM, which a training obeys after its step and a save, and is killed with all
    its children some time later.

    Args:
        owner: its process id.
        seconds: between the two.
    """
    try:
        process = psutil.Process(owner)
    except psutil.NoSuchProcess:
        process = None
    threading.Thread(target=_watch, args=(process, seconds), daemon=True).start()


def _watch(owner: psutil.Process | None, seconds: float) -> None:
    while owner is not None and _lives(owner):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(seconds)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def _lives(process: psutil.Process) -> bool:
    """Whether a process runs: one that was killed stays listed until its parent looks."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
