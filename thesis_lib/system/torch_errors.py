"""Translate torch's errors into messages that say what to do."""

import contextlib
from collections.abc import Iterator

import torch

from thesis_lib.errors import InputError

# Parts of torch's error messages; it has no exception classes for these errors.
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
WORKERS = ("DataLoader worker (pid", "DataLoader timed out")


@contextlib.contextmanager
def translate_torch_errors(batch: str, timeout: float) -> Iterator[None]:
    """Turn the errors raised when memory is short or a loading worker fails into InputErrors.

    Args:
        batch: what was computed when memory ran out, such as "batch_size 64".
        timeout: seconds that a worker may take to load a batch.

    Raises:
        InputError: for these two errors. All other exceptions pass unchanged.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise InputError(_no_memory(batch)) from None
    except RuntimeError as error:
        if any(words in str(error) for words in NO_MEMORY):
            raise InputError(_no_memory(batch)) from None
        reason = str(error).split("\n")[0]
        if any(words in reason for words in WORKERS):
            raise InputError(
                f"a worker that loads images was killed, stopped, or delivered nothing for "
                f"{timeout:g} s ({reason}); if memory is short, use fewer --workers; if the disk "
                "is slow, a longer --worker-timeout; the same command resumes from the last "
                "checkpoint"
            ) from None
        raise


def _no_memory(batch: str) -> str:
    if not batch.startswith("batch_size"):
        return (
            f"out of memory with {batch}; try --cache none, fewer --workers, or a device with more "
            "memory"
        )
    return (
        f"out of memory with {batch}, which is never reduced automatically; try a smaller one in "
        "a new run, a smaller --image-size, --precision bfloat16, --cache none, or a device with "
        "more memory"
    )
