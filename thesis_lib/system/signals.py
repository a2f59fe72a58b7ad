"""SIGTERM, SIGUSR2 and Ctrl-C: a training finishes its step and saves before it obeys."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

GRACE_SECONDS = 20.0  # for the step and the save; Slurm and cloud machines kill after 30
EXIT_RESUMABLE = 75  # of a command that SIGTERM has ended: sysexits' "try again later"
# What a machine ends a process by: SIGUSR2 is Slurm's notice that the time limit is near.
NOTICES = (signal.SIGTERM, signal.SIGUSR2)


class Terminated(SystemExit):
    """SIGTERM or SIGUSR2 has ended the command; what was done is saved, and it can be run again.

    A SystemExit, since asyncio, which papermill waits in, holds back what else a task raises.

    Args:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(EXIT_RESUMABLE)
        self.signal = signal.Signals(number)


@dataclass
class Deferral:
    """The signal that waits to be obeyed, or None."""

    signal: int | None = None


@contextlib.contextmanager
def deferred_signals() -> Iterator[Deferral]:
    """Hold NOTICES and Ctrl-C back until the block has ended; then let them do what they did.

    The block looks at ``signal`` wherever it can leave in good order. A second Ctrl-C, or
    GRACE_SECONDS gone by, are obeyed at once. Only a main thread can do this; in another, signals
    are left alone.
    """
    deferral, owner = Deferral(), os.getpid()
    if threading.current_thread() is not threading.main_thread():
        yield deferral
        return

    def note(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked child, which its parent ends
            return
        if deferral.signal is None:
            deferral.signal = number
            signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
        # A cluster sends its notices more than once, to every process, and a notebook's kernel is
        # interrupted by its runner besides: that is one wish to end, not several.
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


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Make NOTICES raise :class:`Terminated`, so that nothing is left half-done by them.

    The first one does; those that follow would cut short what is put in order after it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, _: FrameType | None) -> None:
        for notice in NOTICES:
            signal.signal(notice, signal.SIG_IGN)
        raise Terminated(number)

    previous = {number: signal.signal(number, terminate) for number in NOTICES}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
