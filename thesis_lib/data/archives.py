"""Unpack a data set from an untrusted archive, so that it can be split.

All members are checked before anything is written, and each one again while it is written.
"""

import contextlib
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thesis_lib.data.archive_members import Member, read_members, readable
from thesis_lib.data.images import UNWRITABLE, class_folders, is_image
from thesis_lib.data.splits import check_destination, sweep_beside
from thesis_lib.errors import InputError
from thesis_lib.system.progress import bar

MAX_MEMBERS = 2_000_000
MAX_DEPTH = 32
MAX_NAME_BYTES = 255  # per part of a path, the limit of common file systems
BOMB_RATIO = 100  # largest unpacked / packed size; images hardly compress, so theirs is near 1
BOMB_BYTES = 2**30  # below this unpacked size, any ratio is harmless
MARGIN_BYTES = 2**28  # disk space that is left free
BLOCK_BYTES = 4096  # disk space is used in blocks: even the smallest file takes one
CHUNK_BYTES = 2**20

NameTree = dict[str, tuple[str, Any]]  # folded name -> spelling, and the folder's tree (or None)


@contextlib.contextmanager
def unpacked(source: Path, destination: Path) -> Iterator[Path]:
    """Yield the folder that contains the class folders, unpacking ``source`` if it is an archive.

    An archive (zip, or tar: plain or compressed with gzip, bzip2 or xz) is unpacked to a hidden
    folder beside ``destination``. This folder is on the same disk, so files can be hard-linked
    from it, and it is removed at the end. Only images are written. Hidden members and members of
    ``__MACOSX`` are left out. If the archive has a single top folder, its contents are used.

    Raises:
        InputError: naming archive and member, if the archive is damaged or cut short, has paths
            outside its folder, contains links, devices, encrypted members, or duplicate or
            unprintable names, or is too large for the disk or suspiciously large when unpacked;
            or if the destination is in use. Nothing is left behind.
    """
    if not source.is_file():
        yield source
        return
    check_destination(destination)
    free = _free_bytes(destination)
    num_members = sum(1 for _ in bar(iterable=_checked(source, free), desc="check", unit="file"))
    folder = destination.with_name(f".{destination.name}.{os.getpid()}.unpacked.partial")
    sweep_beside(destination)
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed process with the same id
    try:
        folder.mkdir(parents=True)
        _unpack(source, folder, free, num_members)
        root = _class_root(folder)
        try:
            yield root
        except InputError as error:  # name the archive, not the hidden folder
            raise InputError(str(error).replace(str(root), str(source))) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_bytes(destination: Path) -> int:
    return shutil.disk_usage(next(p for p in destination.absolute().parents if p.exists())).free


def _unpack(source: Path, folder: Path, free: int, num_members: int) -> None:
    checked = _checked(source, free)
    for member in bar(iterable=checked, total=num_members, desc="unpack", unit="file"):
        path = folder.joinpath(*member.steps)
        (path if member.is_folder else path.parent).mkdir(parents=True, exist_ok=True)
        if _is_wanted(member):
            _write(source, member, path)


def _write(source: Path, member: Member, path: Path) -> None:
    """Write one member and check that it has the size given in the archive."""
    left = member.size
    with open(path, "xb") as file:
        for chunk in _chunks(source, member):
            left -= len(chunk)
            if left < 0:
                raise _refusal(source, member, f"is longer than its size of {member.size:,} bytes")
            file.write(chunk)
    if left:
        raise _refusal(source, member, f"ends {left:,} bytes too early")


def _chunks(source: Path, member: Member) -> Iterator[bytes]:
    with readable(_label(source, member)), member.open() as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def _is_wanted(member: Member) -> bool:
    return not member.is_folder and is_image(member.name)


def _class_root(folder: Path) -> Path:
    """Return the folder that contains the class folders, skipping single top folders."""
    while len(tops := class_folders(folder)) == 1 and class_folders(tops[0]):
        if any(path.is_file() for path in tops[0].iterdir()):
            break
        folder = tops[0]
    return folder


def _refusal(source: Path, member: Member, fault: str) -> InputError:
    return InputError(f"{_label(source, member)} {fault}; nothing was unpacked")


def _label(source: Path, member: Member) -> str:
    return f"in the archive {str(source)!r}, the member {member.name!r}"


def _checked(source: Path, free: int) -> Iterator[Member]:
    """Check all members of an archive and yield those that are not hidden or in ``__MACOSX``.

    Args:
        source: the archive.
        free: free disk space in bytes, before anything is unpacked.
    """
    most = max(BOMB_BYTES, BOMB_RATIO * source.stat().st_size)
    tree: NameTree = {}
    total = on_disk = 0
    for number, member in enumerate(read_members(source), start=1):
        total += member.size
        if _is_wanted(member):
            on_disk += -(-member.size // BLOCK_BYTES) * BLOCK_BYTES
        fault = member.fault or _name_fault(member) or _clash(tree, member)
        if number > MAX_MEMBERS:
            fault = f"exceeds the limit of {MAX_MEMBERS:,} members"
        elif total > most:
            fault = (
                f"brings the unpacked size to {total:,} bytes, too much for an archive of "
                f"{source.stat().st_size:,} bytes of images: it may be a decompression bomb"
            )
        elif on_disk + MARGIN_BYTES > free:
            fault = (
                f"brings the size on disk to {on_disk:,} bytes, but only {free:,} bytes are free"
            )
        if fault:
            raise _refusal(source, member, fault)
        if not member.is_folder:
            with readable(_label(source, member)), member.open():
                pass  # opening compares the two places where a zip stores the name
        if member.steps and not any(s.startswith(".") or s == "__MACOSX" for s in member.steps):
            yield member


def _name_fault(member: Member) -> str:
    name, steps = member.name, member.steps
    if UNWRITABLE.search(name):
        return "has a name with control characters or with bytes that are not UTF-8"
    if "\\" in name:
        return "has a backslash in its name"
    if re.match("/|[A-Za-z]:", name):
        return "has an absolute path"
    if any(step.strip() == ".." for step in steps):
        return "has '..' in its path"
    if len(steps) > MAX_DEPTH or any(len(step.encode()) > MAX_NAME_BYTES for step in steps):
        return "has too long a path"
    return "" if steps or member.is_folder else "has no name"


def _clash(tree: NameTree, member: Member) -> str:
    """Add a member to the tree of names; return how it clashes with another one, or ``""``."""
    steps = member.steps
    for step in steps if member.is_folder else steps[:-1]:
        spelling, tree = tree.setdefault(_folded(step), (step, {}))
        if spelling != step:
            return f"has {step!r} in its path and another {spelling!r}: the same name on some disks"
        if tree is None:
            return f"has the folder {step!r} in its path, which is also a file"
    if not member.is_folder:
        folded = _folded(steps[-1])
        if folded in tree:
            return f"is a duplicate: the archive already contains {tree[folded][0]!r}"
        tree[folded] = (steps[-1], None)
    return ""


def _folded(name: str) -> str:
    """Return a form that is equal for names which some file systems treat as the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
