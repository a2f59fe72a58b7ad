"""Handle SIGTERM, SIGUSR2 and Ctrl-C: a training finishes its step and saves before it stops."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

GRACE_SECONDS = 20.0  # to finish the step and save; Slurm and cloud machines kill after 30 s
EXIT_RESUMABLE = 75  # exit status after SIGTERM or SIGUSR2: EX_TEMPFAIL, "try again later"
# Signals with which a machine stops a process. Slurm sends SIGUSR2 before the time limit.
NOTICES = (signal.SIGTERM, signal.SIGUSR2)


class Terminated(SystemExit):
    """Raised when SIGTERM or SIGUSR2 stops a command whose work is saved and can be resumed.

    It is a SystemExit because papermill runs in asyncio, which holds back other exceptions that a
    signal handler raises in a task.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(EXIT_RESUMABLE)
        self.signal = signal.Signals(number)


@dataclass
class Deferral:
    """The signal that was received and not handled yet, or None."""

    signal: int | None = None


@contextlib.contextmanager
def deferred_signals() -> Iterator[Deferral]:
    """Defer NOTICES and Ctrl-C to the end of the block, then raise them with their usual handlers.

    The block checks ``Deferral.signal`` wherever it can stop cleanly. A second Ctrl-C, or the end
    of GRACE_SECONDS, interrupts the block at once. Signals can only be deferred in the main
    thread; in another thread, this does nothing.
    """
    deferral, owner = Deferral(), os.getpid()
    if threading.current_thread() is not threading.main_thread():
        yield deferral
        return

    def note(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked child, which its parent stops
            return
        if deferral.signal is None:
            deferral.signal = number
            signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
        # A cluster sends its signals several times and to every process, and papermill also
        # interrupts a notebook's kernel. All of these count as one request to stop.
        elif number == signal.SIGALRM or (number == deferral.signal == signal.SIGINT):
            restore()
            signal.raise_signal(deferral.signal)

    numbers = (*NOTICES, signal.SIGINT, signal.SIGALRM)
    previous = {number: signal.signal(number, note) for number in numbers}

    def restore() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)

    try:
        yield deferral
    finally:
        restore()
    if deferral.signal is not None:
        signal.raise_signal(deferral.signal)


def ignore_notices() -> None:
    """Ignore NOTICES from now on, so that they do not interrupt the cleanup of a process."""
    for notice in NOTICES:
        signal.signal(notice, signal.SIG_IGN)


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Make NOTICES raise :class:`Terminated` in the block, so that cleanup code runs.

    Only the first signal does so. Later ones are ignored, as they would interrupt the cleanup.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, _: FrameType | None) -> None:
        ignore_notices()
        raise Terminated(number)

    previous = {number: signal.signal(number, terminate) for number in NOTICES}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
