"""What torch's errors mean, in a user's words."""

import contextlib
from collections.abc import Iterator

import torch

from thesis_lib.errors import InputError

# How torch's own errors begin or what they hold; it has no classes for them.
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
WORKERS = ("DataLoader worker (pid", "DataLoader timed out")


@contextlib.contextmanager
def translate_torch_errors(batch: str, timeout: float) -> Iterator[None]:
    """Turn what a lack of memory or a dead loading worker raises into one line.

    Args:
        batch: what was computed at a time, such as "batch_size 64".
        timeout: seconds that a worker may take.

    Raises:
        InputError: for either; anything else goes through.
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
                f"a process that loads images was killed, ended, or gave nothing for {timeout:g} "
                f"s ({reason}); the same command goes on from the last checkpoint; a killed one "
                "often means too little memory: fewer --workers; a slow disk: a longer "
                "--worker-timeout"
            ) from None
        raise


def _no_memory(batch: str) -> str:
    return (
        f"out of memory with {batch}, which is never changed silently; try a smaller one in "
        "another run, a smaller --image-size, --precision bfloat16, --cache none, or a device with "
        "more memory"
    )
