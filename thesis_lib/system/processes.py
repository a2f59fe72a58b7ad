"""Stop processes whose owner is gone or that are stuck; count ranks, and let one of them print."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from typing import TextIO, cast

import psutil

# Environment variable that torch reads on import. Without it, each rank warns that
# find_unused_parameters is not needed; it is, to make resumed runs reproducible.
QUIET = ("TORCH_CPP_LOG_LEVEL", "ERROR")

SECONDS_BETWEEN_LOOKS = 0.5  # polling interval
SECONDS_TO_REPORT = 3.0  # for rank 0 to print an error that all ranks have found
SECONDS_TO_SAVE = 6.0  # between SIGTERM and SIGKILL


def exit_with_parent(owner: int, seconds: float = SECONDS_TO_SAVE) -> None:
    """Save and stop this process once its owner, a process on the same machine, is gone.

    This process is sent SIGTERM, after which a training finishes its step and saves. It is
    killed ``seconds`` later, with all its children.

    Args:
        owner: process id of the owner.
        seconds: time between SIGTERM and the kill.
    """
    try:
        process = psutil.Process(owner)
    except psutil.NoSuchProcess:
        process = None
    threading.Thread(target=_watch, args=(process, seconds), daemon=True).start()


def _watch(owner: psutil.Process | None, seconds: float) -> None:
    while owner is not None and is_alive(owner):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(seconds)
    _kill_all()


def _kill_all() -> None:
    """Kill this process and all its children."""
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process is running; a zombie, killed but not waited for, is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_when_stuck(seconds: float = SECONDS_TO_SAVE) -> None:
    """Kill this process after SIGTERM if its main thread stays stuck in a library call.

    Python runs a signal handler only when the main thread returns from a library call. A call
    that waits for a GPU, which itself waits for a process that is gone, never returns. Call this
    function from the main thread.

    Args:
        seconds: time that the call may take after SIGTERM.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    responded = threading.Event()
    # SIGURG, harmless otherwise, tests whether the main thread still runs signal handlers.
    signal.signal(signal.SIGURG, lambda number, frame: responded.set())
    arguments = (receiver, sender, responded, seconds)
    threading.Thread(target=_watch_for_stuck, args=arguments, daemon=True).start()


def _watch_for_stuck(
    receiver: socket.socket, sender: socket.socket, responded: threading.Event, seconds: float
) -> None:
    """Wait for SIGTERM. ``sender`` is an argument only to stay open: signals are written to it."""
    while signal.SIGTERM not in receiver.recv(1):
        pass
    os.kill(os.getpid(), signal.SIGURG)
    if not responded.wait(seconds):
        _kill_all()


class Output:
    """Standard output without BrokenPipeError, so that a stage can save if its reader is gone."""

    def write(self, text: str) -> int:
        """Write a text, or nothing if nobody reads it."""
        with contextlib.suppress(BrokenPipeError):
            cast(TextIO, sys.__stdout__).write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what was written."""
        with contextlib.suppress(BrokenPipeError):
            cast(TextIO, sys.__stdout__).flush()

    def isatty(self) -> bool:
        """Return that this is no terminal."""
        return False


def under_torchrun() -> bool:
    """Return whether torchrun started this process as one of several ranks."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def is_main_process() -> bool:
    """Return whether this process prints: rank 0, or a process without torchrun."""
    return not under_torchrun() or os.environ["RANK"] == "0"


def report_error(line: str) -> None:
    """Print the error with which this process will end to stderr, on rank 0 alone.

    The other ranks wait for a moment: torchrun stops rank 0 as soon as one of them has ended.
    """
    if is_main_process():
        print(line, file=sys.stderr)
    else:
        time.sleep(SECONDS_TO_REPORT)


def local_world_size() -> int:
    """Return how many ranks share this machine's cores, memory and GPUs."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if under_torchrun() else 1
