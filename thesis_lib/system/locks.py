"""One process at a time in a folder; a killed owner's lock is free at once."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from thesis_lib.errors import InputError

_held: set[Path] = set()  # by this process, which the system's lock would let in twice


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder/.lock`` for this process.

    The lock is the system's record lock: it belongs to the process, not to the open file, so it
    ends with its owner even while loading workers that were forked from it live on.

    Raises:
        InputError: where another process, or this one, holds it already: its host and process id.
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
            raise InputError(f"the disk of {path} has no locks: {error.strerror}") from None
        _held.add(path)
        try:
            owner = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
            with contextlib.suppress(OSError):  # a full disk: nobody will be told who holds it
                os.ftruncate(file.fileno(), 0)
                os.pwrite(file.fileno(), owner.encode(), 0)
            yield
        finally:
            _held.remove(path)  # closing the file ends the lock


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "ab")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _owner(path: Path) -> dict[str, object]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # it has not written yet who it is
        return {"host": "unknown", "pid": "unknown"}


def _refusal(folder: Path, owner: dict[str, object]) -> str:
    return (
        f"{folder} is in use by process {owner['pid']} on {owner['host']}; wait for it, or stop "
        "it: what it has saved stays"
    )
