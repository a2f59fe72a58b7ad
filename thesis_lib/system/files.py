"""Files that are whole or not there: written beside their place, synced, renamed."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thesis_lib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd  # `thesis status` is to answer at once

FULL = (errno.ENOSPC, errno.EDQUOT)
ABANDONED_SECONDS = 3600  # a partial file untouched for so long has lost its writer


@contextlib.contextmanager
def atomic_path(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it is synced and renamed when all went well.

    Args:
        path: where the file is to be.
        size: its bytes, where they are known beforehand.

    Raises:
        InputError: where the disk is full; what was there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno not in FULL:
            raise
        needed = f"{size:,} bytes" if size is not None else "more"
        partial.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
        raise InputError(
            f"the disk is full: {path} needs {needed}, {free:,} bytes are free; what was there "
            "before is untouched; make room, and the same command goes on"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename outlive a power cut, where the system can sync a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sweep_partial(folder: Path, older_than: float = ABANDONED_SECONDS) -> list[Path]:
    """Remove the files and folders that killed writers left in a folder, at any depth.

    Args:
        folder: where to look.
        older_than: seconds that a partial file has been untouched; 0 where nobody else can be
            writing.

    Returns:
        The files removed.
    """
    removed = []
    for path in folder.rglob(".*.partial*"):
        with contextlib.suppress(FileNotFoundError):  # its writer has just renamed it
            if time.time() - path.stat().st_mtime >= older_than:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed.append(path)
    return removed


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_path(path, len(content)) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    """Write a CSV file (without the index) whole or not at all."""
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def file_digest(path: Path) -> str | None:
    """A file's SHA-256, hex; None where it is not there."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: where it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path} is no JSON file ({error}); restore it from a copy, or remove it: but never "
            "a config.json, whose content every checkpoint of the run holds as well"
        ) from None
