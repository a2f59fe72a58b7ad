"""Write files atomically: to a partial file beside the target, synced, then renamed."""

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
    import pandas as pd  # imported late, so that `thesis status` answers at once

FULL = (errno.ENOSPC, errno.EDQUOT)
ABANDONED_SECONDS = 3600  # the writer of a partial file this old was killed


@contextlib.contextmanager
def atomic_path(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to; sync it and rename it to ``path`` if all went well.

    Args:
        path: the final path of the file.
        size: size of the file in bytes, if known beforehand, for the error message.

    Raises:
        InputError: if the disk is full. An existing file at ``path`` is left unchanged.
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
        needed = f"{size:,} bytes" if size is not None else "more space"
        partial.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
        raise InputError(
            f"the disk is full: {path} needs {needed}, {free:,} bytes are free; nothing saved "
            "before is lost; free some space and run the same command again"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Sync a folder, if the system can, so that a rename in it survives a power failure."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sweep_partial(folder: Path, older_than: float = ABANDONED_SECONDS) -> list[Path]:
    """Remove the partial files and folders that killed processes left in a folder, at any depth.

    Args:
        folder: the folder to search.
        older_than: remove only what was last modified this many seconds ago or earlier; 0 if no
            other process can be writing here.

    Returns:
        The paths of the removed files and folders.
    """
    removed = []
    for path in folder.rglob(".*.partial*"):
        with contextlib.suppress(FileNotFoundError):  # just renamed by its writer
            if time.time() - path.stat().st_mtime >= older_than:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed.append(path)
    return removed


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path, len(content)) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    """Write a CSV file (without the index) atomically."""
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def file_digest(path: Path) -> str | None:
    """Return the SHA-256 of a file in hex, or None if there is no such file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: if the file is not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path} is not valid JSON ({error}); restore it from a copy or delete it; do not "
            "delete a config.json: every checkpoint of the run holds a copy of its content"
        ) from None
