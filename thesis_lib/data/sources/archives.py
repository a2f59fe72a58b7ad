"""Unpack a data set from an archive, so that it can be split."""

import contextlib
import os
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from thesis_lib.data.images import class_folders, image_name, is_image, is_system
from thesis_lib.data.sources.ecotaxa import export_tables
from thesis_lib.data.sources.learning_set import taxa_table
from thesis_lib.data.sources.listing import no_image, tables_in
from thesis_lib.data.sources.text_tables import is_table
from thesis_lib.data.splits.writer import check_destination, sweep_beside
from thesis_lib.errors import InputError
from thesis_lib.system.progress import bar

BOMB_RATIO = 100  # largest unpacked / packed size; images hardly compress, so theirs is near 1
BOMB_BYTES = 2**30  # below this unpacked size, any ratio is harmless
MARGIN_BYTES = 2**28  # disk space that is left free
# Python before 3.11.4 has no filter; then permissions and owners stay in the archive.
SAFELY: dict[str, Any] = (
    {"filter": "data"} if hasattr(tarfile, "data_filter") else {"set_attrs": False}
)


@contextlib.contextmanager
def unpacked(source: Path, destination: Path) -> Iterator[Path]:
    """Yield the folder that contains the class folders, unpacking ``source`` if it is an archive.

    An archive (zip, or tar: plain or compressed with gzip, bzip2 or xz) is unpacked to a hidden
    folder beside ``destination``. This folder is on the same disk, so files can be hard-linked
    from it, and it is removed at the end. Only images and tables are written; hidden members and
    those of operating systems are left out. If the archive has a single top folder, its contents
    are used.

    Raises:
        InputError: naming archive and member, if the archive is damaged, has paths outside its
            folder, contains links, devices, encrypted or duplicate members, or is too large for
            the disk or suspiciously large when unpacked; or if the destination is in use. Nothing
            is left behind.
    """
    if not source.is_file() or is_table(source.name):
        yield source
        return
    check_destination(destination)
    sweep_beside(destination)
    folder = destination.with_name(f".{destination.name}.{os.getpid()}.unpacked.partial")
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed process with the same id
    try:
        folder.mkdir(parents=True)
        with _readable(source):
            left_out = (_unpack_zip if zipfile.is_zipfile(source) else _unpack_tar)(source, folder)
        if not any(is_image(image_name(path)) for path in folder.rglob("*")):
            raise InputError(f"the archive {str(source)!r} contains no images")
        root = folder
        try:
            tables = tables_in(folder)
            described = export_tables(tables) or taxa_table(tables)
            root = folder if described else _class_root(folder)
            yield root
            for reason, number in left_out.most_common():
                print(f"left out of the archive: {reason}: {number:,}")
        except InputError as error:  # name the archive, not the hidden folder
            raise InputError(str(error).replace(str(root), str(source))) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _readable(source: Path) -> Iterator[None]:
    """Turn any error raised while reading damaged bytes into a one-line InputError."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except UnicodeDecodeError as error:
        raise InputError(
            f"the archive {str(source)!r} has the name {error.object!r}, which is not UTF-8; "
            "unpack the archive yourself and give the folder"
        ) from None
    except Exception as error:  # zipfile and tarfile do not document all errors that they raise
        if isinstance(error, OSError) and error.errno is not None:  # a full disk, for example
            raise
        # tarfile lists the errors of all compressions that it has tried.
        reason = " ".join(f"{type(error).__name__} {error}".split()).split(": - method")[0]
        raise InputError(
            f"the archive {str(source)!r} cannot be read: {reason}; it is damaged, cut short, or "
            "not an archive (zip, tar, tar.gz, tar.bz2, tar.xz)"
        ) from None


def _unpack_zip(source: Path, folder: Path) -> Counter[str]:
    with zipfile.ZipFile(source, metadata_encoding="utf-8") as archive:
        check = _Check(source, folder)
        chosen = []
        for info in archive.infolist():
            kind = stat.S_IFDIR if info.is_dir() else stat.S_IFMT(info.external_attr >> 16)
            if check.is_wanted(info.filename, info.file_size, kind or stat.S_IFREG):
                info.filename = info.filename.replace("\\", "/")  # some Windows tools write these
                chosen.append(info)
        for info in bar(iterable=chosen, desc="unpack", unit="file"):
            archive.extract(info, folder)  # reads no more than file_size, and checks the CRC
    return check.left_out


def _unpack_tar(source: Path, folder: Path) -> Counter[str]:
    with tarfile.open(source, encoding="utf-8", errors="strict") as archive:
        check = _Check(source, folder)
        for info in bar(iterable=archive, desc="unpack", unit="file"):
            kind = stat.S_IFDIR if info.isdir() else stat.S_IFREG if info.isreg() else 0
            if check.is_wanted(info.name, info.size, kind):
                info.name = info.name.replace("\\", "/")
                archive.extract(info, folder, **SAFELY)
        # tarfile takes a damaged header for the end of the archive, and does not read the
        # checksum at the end of compressed data.
        stream: IO[bytes] = cast(Any, archive).fileobj
        stream.seek(archive.offset)
        are_zeros = [not rest.strip(b"\0") for rest in iter(lambda: stream.read(2**20), b"")]
        if not are_zeros or not all(are_zeros):
            raise tarfile.ReadError(f"no end marker after {archive.offset:,} bytes")
    return check.left_out


class _Check:
    """Check the members of an archive, one after another, before each is written."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.source, self.packed = source, source.stat().st_size
        self.free = shutil.disk_usage(folder).free - MARGIN_BYTES
        self.total, self.names = 0, set[str]()
        self.left_out: Counter[str] = Counter()

    def is_wanted(self, name: str, size: int, kind: int) -> bool:
        """Return whether a member is a folder, an image or a table to unpack.

        Args:
            name: its path.
            size: its size in bytes.
            kind: its file type, such as ``stat.S_IFREG``.

        Raises:
            InputError: if it is suspicious.
        """
        steps = [step for step in re.split(r"[/\\]", name) if step not in ("", ".")]
        self.total += size
        fault = ""
        if size < 0:  # tarfile would go back and read the same members again and again
            fault = "has a negative size"
        elif kind not in (stat.S_IFREG, stat.S_IFDIR):
            fault = "is a link or a device"
        elif re.match(r"[/\\]|[A-Za-z]:", name) or ".." in steps:
            fault = "has a path outside the archive's folder"
        elif self.total > max(BOMB_BYTES, BOMB_RATIO * self.packed):
            fault = (
                f"brings the unpacked size to {self.total:,} bytes, too much for an archive of "
                f"{self.packed:,} bytes of images: it may be a decompression bomb"
            )
        elif self.total > self.free:
            fault = f"brings the size to {self.total:,} bytes; only {self.free:,} bytes are free"
        hidden = any(map(is_system, steps))
        # A file without a suffix may be an image.
        named = is_image(name) or is_table(name) or not os.path.splitext(name)[1]
        wanted = not hidden and (kind == stat.S_IFDIR or named)
        path = unicodedata.normalize("NFC", "/".join(steps)).casefold()  # as some disks compare
        if wanted and kind == stat.S_IFREG and path in self.names:
            fault = "is a duplicate: another member has the same name"
        if fault:
            raise InputError(
                f"in the archive {str(self.source)!r}, the member {name!r} {fault}; nothing was "
                "unpacked"
            )
        if wanted:
            self.names.add(path)
        elif kind == stat.S_IFREG:
            self.left_out["hidden or system files" if hidden else no_image(name)] += 1
        return wanted


def _class_root(folder: Path) -> Path:
    """Return the folder that contains the class folders, skipping single top folders."""
    while len(tops := class_folders(folder)) == 1 and class_folders(tops[0]):
        if any(path.is_file() and is_image(path.name) for path in tops[0].iterdir()):
            break
        folder = tops[0]
    return folder
