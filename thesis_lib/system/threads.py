"""Read many images at once with threads."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from concurrent.futures.thread import BrokenThreadPool
from typing import TypeVar

from thesis_lib.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
SECONDS_BETWEEN_LOOKS = 1.0
# What Python says when memory is short: of a RuntimeError, and of a SystemError.
NO_MEMORY = ("can't start new thread", "error return without exception set")


def map_in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], num_threads: int
) -> Iterator[Result]:
    """Yield ``function(item)`` of each item in order, computed by threads.

    The first error that ``function`` raises is raised here.

    Raises:
        InputError: if memory is short. A thread that cannot even raise its MemoryError ends
            silently, and Python's own ``Executor.map`` would wait for its result forever.
    """
    started: list[threading.Thread] = []

    def note() -> None:
        started.append(threading.current_thread())

    pool = ThreadPoolExecutor(num_threads, initializer=note)
    try:
        futures = [pool.submit(function, item) for item in items]
        futures.reverse()
        while futures:
            yield _result(futures.pop(), started)  # popped, so that its memory is freed
    except (MemoryError, RuntimeError, SystemError) as error:
        if isinstance(error, (MemoryError, BrokenThreadPool)) or str(error) in NO_MEMORY:
            raise InputError(
                "out of memory while images were read; close other programs, or use a machine with "
                "more memory"
            ) from None
        raise
    finally:
        pool.shutdown(wait=all(thread.is_alive() for thread in started), cancel_futures=True)


def _result(future: Future[Result], threads: Sequence[threading.Thread]) -> Result:
    """Return a result as soon as it is there; raise MemoryError if one of the threads has ended."""
    while True:
        try:
            return future.result(SECONDS_BETWEEN_LOOKS)
        except NotYet:
            if future.done():  # the function itself has raised a TimeoutError
                raise
            if not all(thread.is_alive() for thread in threads):
                raise MemoryError from None
