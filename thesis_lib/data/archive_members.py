"""The members of a zip or a tar, one after the other, without holding or believing much."""

import bz2
import contextlib
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from thesis_lib.errors import InputError

COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
# zipfile unpacks what is packed by other methods without a bound on the memory that it takes.
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
HEADER_BYTES = 2**20  # of one member of a tar, and of the zeros at its end


@dataclass(frozen=True, slots=True)
class Member:
    """What an archive says of one member; ``fault`` is why its kind is refused, or ``""``."""

    name: str
    is_folder: bool
    size: int
    fault: str
    open: Callable[[], BinaryIO]

    @property
    def steps(self) -> list[str]:
        """The names on its path."""
        return [step for step in self.name.split("/") if step not in ("", ".")]


@contextlib.contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn whatever the reading of damaged bytes raises into one clear line.

    Raises:
        InputError: that begins with ``what``.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(
            f"{what}: the name {error.object!r} is no UTF-8; unpack it yourself, give the folder"
        ) from None
    except Exception as error:  # there is no list of what zipfile and tarfile raise
        reason = f"{type(error).__name__} {error}".split("\n")[0]
        raise InputError(
            f"{what} cannot be read: {reason}; it is damaged, cut short, "
            "or no archive (zip, tar, tar.gz, tar.bz2, tar.xz)"
        ) from None


def read_members(source: Path) -> Iterator[Member]:
    """Yield the members of an archive; each can be opened until the next one is asked for.

    Raises:
        InputError: for what is no archive, or damaged. What has no checksums in the format, which
            is the content of a plain tar and the packed data until they are read, is not seen.
    """
    with open(source, "rb") as file, readable(f"the archive {str(source)!r}"):
        head = file.read(8)
        file.seek(0)
        if head.startswith(b"PK"):
            yield from _zip_members(file)
        else:
            openers = (opener for magic, opener in COMPRESSIONS.items() if head.startswith(magic))
            yield from _tar_members(next(openers, lambda plain: plain)(file))


def _zip_members(file: BinaryIO) -> Iterator[Member]:
    with zipfile.ZipFile(file, metadata_encoding="utf-8") as archive:
        if (len(archive.infolist()) - _told_members(file)) % 2**16:
            raise ValueError("members are missing")
        for info in archive.infolist():
            name = info.orig_filename  # the other one is cut at a NUL
            opener = partial(archive.open, info)
            yield Member(name, name.endswith("/"), info.file_size, _zip_fault(info), opener)


def _told_members(file: BinaryIO) -> int:
    """How many members a zip's end says that there are, modulo 2^16 as some writers have it."""
    file.seek(-min(file.seek(0, os.SEEK_END), 2**17), os.SEEK_END)
    tail = file.read()
    end = tail.rfind(b"PK\5\6")
    count = tail[end + 10 : end + 12]
    if tail[end - 20 : end - 16] == b"PK\6\7":  # another end, for larger numbers, lies before it
        larger = tail.rfind(b"PK\6\6", 0, end)
        count = tail[larger + 32 : larger + 34]
    return int.from_bytes(count, "little")


def _zip_fault(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is no file and no folder"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type not in ZIP_METHODS:
        return f"is packed by the method {info.compress_type}; only stored and deflated ones can be"
    return ""


class _Metered:
    """A stream that gives no more bytes than are ``left`` to its reader.

    tarfile takes the headers of a member into memory as long as they say that they are.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.left = stream, HEADER_BYTES
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise ValueError(f"a header asks for {size:,} bytes")
        self.left -= size
        return self.stream.read(size)


def _tar_members(file: BinaryIO) -> Iterator[Member]:
    stream = _Metered(file)
    with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # else it keeps them all

            def opener(info: tarfile.TarInfo = info) -> BinaryIO:
                stream.left = info.size
                return archive.extractfile(info)

            yield Member(info.name, info.isdir(), info.size, _tar_fault(info), opener)
            stream.left = HEADER_BYTES
        # It takes a damaged header for the end, and so does not see that half is missing.
        stream.seek(archive.offset)
        stream.left = HEADER_BYTES
        end = stream.read(HEADER_BYTES)
        if not tarfile.BLOCKSIZE <= len(end) < HEADER_BYTES or end.strip(b"\0"):
            raise ValueError(f"no end after {archive.offset:,} bytes")


def _tar_fault(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "is a link"
    if not info.isreg() and not info.isdir():
        return "is no file and no folder"
    return "has a negative size" if info.size < 0 else ""
