"""Lock a folder for one process at a time; a killed process frees its lock at once."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from thesis_lib.errors import InputError

_held: set[Path] = set()  # locks of this process, to which the system would grant them twice


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock ``folder/.lock`` for the block.

    This is a POSIX record lock. It belongs to the process, not to the open file, so it ends with
    the process even if its forked data loading workers are still running.

    Raises:
        InputError: if another process, or this one, already holds the lock. The message gives
            its host and process id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / ".lock").resolve()
    if path in _held:
        raise InputError(_refusal(folder, {"host": socket.gethostname(), "pid": os.getpid()}))
    with _opened(path) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise InputError(_refusal(folder, _owner(path))) from None
        except OSError as error:
            raise InputError(
                f"cannot lock {path}: {error.strerror}; use a disk that supports file locks"
            ) from None
        _held.add(path)
        try:
            owner = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
            with contextlib.suppress(OSError):  # the disk is full: the owner stays unnamed
                os.ftruncate(file.fileno(), 0)
                os.pwrite(file.fileno(), owner.encode(), 0)
            yield
        finally:
            _held.remove(path)  # closing the file releases the lock


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "ab")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _owner(path: Path) -> dict[str, object]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # the owner has not written the file yet
        return {"host": "unknown", "pid": "unknown"}


def _refusal(folder: Path, owner: dict[str, object]) -> str:
    return (
        f"{folder} is in use by process {owner['pid']} on {owner['host']}; wait until it has "
        "finished, or stop it (what it has saved is kept)"
    )
