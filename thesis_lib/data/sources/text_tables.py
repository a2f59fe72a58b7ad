"""Read CSV and TSV tables in any of the encodings and delimiters that people's programs write."""

import codecs
import csv
import gzip
import io
import re
from collections.abc import Iterator
from pathlib import Path

from thesis_lib.errors import InputError, nearest

TABLE = re.compile(r".*\.(tsv|csv)(\.gz)?|ecotaxa.*\.txt", re.IGNORECASE)
csv.field_size_limit(2**24)  # free-text columns can be longer than Python's limit of 128 KiB


SEPARATOR = re.compile(r"\A\"?sep=.\"?\r?\n")


def is_table(name: str) -> bool:
    """Return whether a file (its name or path) is named like a table."""
    return TABLE.fullmatch(name.rsplit("/", 1)[-1]) is not None


def decoded(content: bytes) -> str:
    """Decode a file by its byte order mark, or else as UTF-8 or latin-1.

    Excel's first line ``sep=;`` is left out.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # by Excel or PowerShell
        text = content.decode("utf-16", errors="replace")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
    return SEPARATOR.sub("", text)


def header_of(path: Path) -> list[str]:
    """Return the column names of a table; an empty list if its first line is no text.

    Only the first 64 KiB are read.
    """
    start = _content(path, 2**16)
    end = start.rfind(b"\n") + 1 if b"\0" not in start else len(start)  # not within a letter
    lines = decoded(start[: end or None]).splitlines()[:1]
    if not lines or "\0" in lines[0]:
        return []
    return [name.strip() for name in next(csv.reader(lines, delimiter=delimiter_of(lines[0])))]


def delimiter_of(header: str) -> str:
    """Return the delimiter of a table from its first line: a comma, a semicolon or a tab."""
    return max(",;\t", key=header.count)


def reader_of(text: str) -> csv.DictReader:
    """Return a strict reader of a table's rows; an open quote is an error."""
    lines = io.StringIO(text, newline="")
    delimiter = delimiter_of(lines.readline())
    lines.seek(0)
    return csv.DictReader(lines, delimiter=delimiter, restval="", strict=True)


def read_rows(path: Path, columns: tuple[str, ...] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of the line and the values of each row of a table.

    Args:
        path: the table; ``.gz`` is decompressed.
        columns: those that the table must have.

    Raises:
        InputError: if the table cannot be read, lacks a column, or a row has more fields than the
            header.
    """
    reader = reader_of(decoded(_content(path)))
    names = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    for column in columns:
        if column not in names:
            raise InputError(f"{path} has no column {column!r}{nearest(column, names)}")
    try:
        for row in reader:
            if any(row.pop(None, ())):  # type: ignore[call-overload]  # DictReader's restkey
                raise InputError(
                    f"{path} line {reader.line_num} has more fields than the header; quote values "
                    "that contain the delimiter"
                )
            yield reader.line_num, {name: value.strip() for name, value in row.items()}
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num} is not a valid table: {error}") from None


def _content(path: Path, most: int = -1) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            return file.read(most)
    except (OSError, EOFError) as error:  # gzip's errors are OSErrors
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read the table {path}: {reason}") from None
