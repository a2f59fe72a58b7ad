"""A data set that comes as an archive, unpacked for a split; nothing in it is trusted.

Every member is checked before the first byte is written, and once more as it is written.
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
MAX_NAME_BYTES = 255  # of one step of a path, as file systems have it
BOMB_RATIO = 100  # images are packed already: an honest archive is hardly smaller than they are
BOMB_BYTES = 2**30  # below this no ratio does harm
MARGIN_BYTES = 2**28  # of the disk, which stay free
BLOCK_BYTES = 4096  # of the disk, which the smallest file takes
CHUNK_BYTES = 2**20

NameTree = dict[str, tuple[str, Any]]  # folded name -> its spelling, and the tree below a folder


@contextlib.contextmanager
def unpacked(source: Path, destination: Path) -> Iterator[Path]:
    """Yield the folder of class folders that a source is, or that its archive holds.

    An archive (zip; tar, plain or packed by gzip, bzip2 or xz) is unpacked into a hidden folder
    beside ``destination``, on the same disk, which is removed at the end: hard links to its files
    stay. Only images are written. Top folders that stand alone are passed over; hidden members
    and those of ``__MACOSX`` are left out.

    Raises:
        InputError: naming archive and member, for an archive that is damaged or cut short, would
            write outside of its folder, holds links, devices, encrypted members or names that
            are doubled or unprintable, or is larger unpacked than the disk or reason allows;
            and for a destination in use. Nothing is left behind.
    """
    if not source.is_file():
        yield source
        return
    check_destination(destination)
    free = _free_bytes(destination)
    members = sum(1 for _ in bar(iterable=_checked(source, free), desc="check", unit="file"))
    folder = destination.with_name(f".{destination.name}.{os.getpid()}.unpacked.partial")
    sweep_beside(destination)
    shutil.rmtree(folder, ignore_errors=True)  # a killed process may have had the same number
    try:
        folder.mkdir(parents=True)
        _unpack(source, folder, free, members)
        root = _class_root(folder)
        try:
            yield root
        except InputError as error:  # the user knows it by another name
            raise InputError(str(error).replace(str(root), str(source))) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_bytes(destination: Path) -> int:
    return shutil.disk_usage(next(p for p in destination.absolute().parents if p.exists())).free


def _unpack(source: Path, folder: Path, free: int, members: int) -> None:
    checked = _checked(source, free)
    for member in bar(iterable=checked, total=members, desc="unpack", unit="file"):
        path = folder.joinpath(*member.steps)
        (path if member.is_folder else path.parent).mkdir(parents=True, exist_ok=True)
        if _is_wanted(member):
            _write(source, member, path)


def _write(source: Path, member: Member, path: Path) -> None:
    """Write one member, which must be as long as the archive says."""
    left = member.size
    with open(path, "xb") as file:
        for chunk in _chunks(source, member):
            left -= len(chunk)
            if left < 0:
                raise _refusal(source, member, f"is longer than its {member.size:,} bytes")
            file.write(chunk)
    if left:
        raise _refusal(source, member, f"ends {left:,} bytes early")


def _chunks(source: Path, member: Member) -> Iterator[bytes]:
    with readable(_label(source, member)), member.open() as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def _is_wanted(member: Member) -> bool:
    return not member.is_folder and is_image(member.name)


def _class_root(folder: Path) -> Path:
    """The folder that holds the class folders: no such folder holds a single folder of folders."""
    while len(tops := class_folders(folder)) == 1 and class_folders(tops[0]):
        if any(path.is_file() for path in tops[0].iterdir()):
            break
        folder = tops[0]
    return folder


def _refusal(source: Path, member: Member, fault: str) -> InputError:
    return InputError(f"{_label(source, member)} {fault}; nothing of the archive is kept")


def _label(source: Path, member: Member) -> str:
    return f"the archive {str(source)!r}: its member {member.name!r}"


def _checked(source: Path, free: int) -> Iterator[Member]:
    """The members of an archive that are no junk; all of them are checked.

    Args:
        source: the archive.
        free: bytes of the disk before anything is unpacked.
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
            fault = f"is one more than the {MAX_MEMBERS:,} that are unpacked at most"
        elif total > most:
            fault = f"brings it to {total:,} bytes, too well packed for images: it may be a bomb"
        elif on_disk + MARGIN_BYTES > free:
            fault = f"brings it to {on_disk:,} bytes, too many where {free:,} bytes are free"
        if fault:
            raise _refusal(source, member, fault)
        if not member.is_folder:
            with readable(_label(source, member)), member.open():
                pass  # a zip has a name in two places, of which one may be damaged
        if member.steps and not any(s.startswith(".") or s == "__MACOSX" for s in member.steps):
            yield member


def _name_fault(member: Member) -> str:
    name, steps = member.name, member.steps
    if UNWRITABLE.search(name):
        return "has a name with control characters or with bytes that are no UTF-8"
    if "\\" in name:
        return "has a backslash in its name"
    if re.match("/|[A-Za-z]:", name):
        return "has an absolute path"
    if any(step.strip() == ".." for step in steps):
        return "climbs out of the archive"
    if len(steps) > MAX_DEPTH or any(len(step.encode()) > MAX_NAME_BYTES for step in steps):
        return "has too long a path"
    return "" if steps or member.is_folder else "has no name"


def _clash(tree: NameTree, member: Member) -> str:
    """Enter a member into the tree of names; return with what it clashes, on whatever disk."""
    steps = member.steps
    for step in steps if member.is_folder else steps[:-1]:
        spelling, tree = tree.setdefault(_folded(step), (step, {}))
        if spelling != step:
            return f"has {step!r} where another has {spelling!r}, the same name on some disks"
        if tree is None:
            return f"makes a folder of {step!r}, which is a file as well"
    if not member.is_folder:
        folded = _folded(steps[-1])
        if folded in tree:
            return f"is doubled: {tree[folded][0]!r} is there already"
        tree[folded] = (steps[-1], None)
    return ""


def _folded(name: str) -> str:
    """What names have in common that a disk may take for the same one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
