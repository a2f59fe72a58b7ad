"""Read the members of a zip or tar archive one by one, without trusting what their headers say.

Memory use stays bounded, however large the archive or its headers are.
"""

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
from typing import IO, Any, BinaryIO, cast

from thesis_lib.errors import InputError

COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
# For other compression methods, zipfile does not limit the memory that decompression takes.
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
HEADER_BYTES = 2**20  # limit for a tar member's header, and for the zeros at the end of a tar


@dataclass(frozen=True, slots=True)
class Member:
    """One member, as the archive describes it.

    ``size`` is in bytes; ``fault`` says why this kind of member is refused, or is ``""``.
    """

    name: str
    is_folder: bool
    size: int
    fault: str
    open: Callable[[], BinaryIO]

    @property
    def steps(self) -> list[str]:
        """Return the parts of the member's path."""
        return [step for step in self.name.split("/") if step not in ("", ".")]


@contextlib.contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn any error raised while reading damaged bytes into a one-line InputError.

    Raises:
        InputError: whose message begins with ``what``.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(
            f"{what}: the name {error.object!r} is not valid UTF-8; unpack the archive yourself "
            "and give the folder"
        ) from None
    except Exception as error:  # zipfile and tarfile do not document all errors that they raise
        reason = f"{type(error).__name__} {error}".split("\n")[0]
        raise InputError(
            f"{what} cannot be read: {reason}; it is damaged, cut short, "
            "or not an archive (zip, tar, tar.gz, tar.bz2, tar.xz)"
        ) from None


def read_members(source: Path) -> Iterator[Member]:
    """Yield the members of an archive; open each one before advancing to the next.

    Raises:
        InputError: if the file is damaged or not an archive. Damage goes unnoticed where the
            format has no checksum (the contents of a plain tar), and in compressed data until
            they are read.
    """
    with open(source, "rb") as file, readable(f"the archive {str(source)!r}"):
        head = file.read(8)
        file.seek(0)
        if head.startswith(b"PK"):
            yield from _zip_members(file)
        else:
            openers = (opener for magic, opener in COMPRESSIONS.items() if head.startswith(magic))
            opener: Any = next(openers, lambda plain: plain)
            yield from _tar_members(opener(file))


def _zip_members(file: BinaryIO) -> Iterator[Member]:
    with zipfile.ZipFile(file, metadata_encoding="utf-8") as archive:
        if (len(archive.infolist()) - _declared_count(file)) % 2**16:
            raise ValueError("members are missing")
        for info in archive.infolist():
            name = info.orig_filename  # zipfile cuts info.filename at a NUL
            opener: Any = partial(archive.open, info)
            yield Member(name, name.endswith("/"), info.file_size, _zip_fault(info), opener)


def _declared_count(file: BinaryIO) -> int:
    """Return the member count in a zip's end record; some writers store it modulo 2^16."""
    file.seek(-min(file.seek(0, os.SEEK_END), 2**17), os.SEEK_END)
    tail = file.read()
    end = tail.rfind(b"PK\5\6")
    count = tail[end + 10 : end + 12]
    if tail[end - 20 : end - 16] == b"PK\6\7":  # a Zip64 end record, for larger numbers, precedes
        larger = tail.rfind(b"PK\6\6", 0, end)
        count = tail[larger + 32 : larger + 34]
    return int.from_bytes(count, "little")


def _zip_fault(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is neither a file nor a folder"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type not in ZIP_METHODS:
        return (
            f"uses compression method {info.compress_type}; "
            "only stored and deflated members can be read"
        )
    return ""


class _Metered:
    """A stream from which at most ``left`` more bytes can be read.

    tarfile reads a header into memory whatever size it claims; this class limits that size.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.left = stream, HEADER_BYTES
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise ValueError(f"a header claims {size:,} bytes")
        self.left -= size
        return self.stream.read(size)


def _tar_members(file: BinaryIO) -> Iterator[Member]:
    stream = _Metered(file)
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:", encoding="utf-8") as archive:
        while (info := archive.next()) is not None:
            cast(Any, archive).members.clear()  # otherwise tarfile keeps all of them in memory

            def opener(info: tarfile.TarInfo = info) -> Any:
                stream.left = info.size
                return archive.extractfile(info)

            yield Member(info.name, info.isdir(), info.size, _tar_fault(info), opener)
            stream.left = HEADER_BYTES
        # tarfile stops at a damaged header as if it were the end, so check that this is the end.
        stream.seek(archive.offset)
        stream.left = HEADER_BYTES
        end = stream.read(HEADER_BYTES)
        if not tarfile.BLOCKSIZE <= len(end) < HEADER_BYTES or end.strip(b"\0"):
            raise ValueError(f"no end marker after {archive.offset:,} bytes")


def _tar_fault(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "is a link"
    if not info.isreg() and not info.isdir():
        return "is neither a file nor a folder"
    return "has a negative size" if info.size < 0 else ""
