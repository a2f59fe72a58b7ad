"""No process outlives the one that it works for, or stays because it is stuck."""

import os
import signal
import socket
import threading
import time

import psutil

# Read when torch is imported: each rank would warn that a network may do without a setting that
# keeps its bits the same.
QUIET = ("TORCH_CPP_LOG_LEVEL", "ERROR")

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_SAVE = 6.0


def exit_with_parent(owner: int, seconds: float = SECONDS_TO_SAVE) -> None:
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
    """Whether a process runs: one that was killed stays listed until its parent looks."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_when_stuck(seconds: float = SECONDS_TO_SAVE) -> None:
    """Kill this process some time after SIGTERM, if its main thread is stuck in one call till then.

    Python obeys a signal once the main thread is out of a library's call. One that waits for a
    GPU that waits for another process is never out. To be called from the main thread.

    Args:
        seconds: that a call may take on.
    """
    wakes, woken = socket.socketpair()
    woken.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    obeys = threading.Event()
    signal.signal(signal.SIGURG, lambda number, frame: obeys.set())  # to ask whether it would obey
    arguments = (wakes, woken, obeys, seconds)
    threading.Thread(target=_watch_for_stuck, args=arguments, daemon=True).start()


def _watch_for_stuck(
    wakes: socket.socket, woken: socket.socket, obeys: threading.Event, seconds: float
) -> None:
    """Wait for SIGTERM; ``woken`` is held open, since signals are noted there."""
    while signal.SIGTERM not in wakes.recv(1):
        pass
    os.kill(os.getpid(), signal.SIGURG)
    if not obeys.wait(seconds):
        _kill_all()


def under_torchrun() -> bool:
    """Whether this process is one of several ranks."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def is_main_process() -> bool:
    """Whether this process prints: rank 0, or one on its own."""
    return not under_torchrun() or os.environ["RANK"] == "0"


def local_world_size() -> int:
    """How many ranks part this machine's cores, memory and GPUs."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if under_torchrun() else 1


def num_cores(among: int = 1) -> int:
    """How many cores this process may use, or each of so many that part them."""
    all_ = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, all_ // among)
