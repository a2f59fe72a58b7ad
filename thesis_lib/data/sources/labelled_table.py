"""Read a table (CSV or TSV) with a column of image paths and a column of labels."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thesis_lib.data.images import image_name, is_image
from thesis_lib.data.sources.folders import SPLIT, SPLIT_NAMES
from thesis_lib.data.sources.listing import Listing, NamedImages, class_names, file_names
from thesis_lib.data.sources.text_tables import header_of, read_rows
from thesis_lib.errors import InputError, nearest

# The names that are taken for a column if none is given.
PATHS = ("path", "file", "filename", "file_name", "image", "image_path", "img_file_name")
LABELS = ("label", "class", "class_name", "category", "taxon", "species")


@dataclass(frozen=True)
class Columns:
    """The names of a table's columns; None: the one with an obvious name.

    Args:
        path: the image, relative to the table's folder.
        label: its class.
        split: train, val or test; None: the table has none.
    """

    path: str | None = None
    label: str | None = None
    split: str | None = None


def read_labelled_table(table: Path, columns: Columns) -> Listing:
    """List the images that a table names, by their label; all other columns become facts.

    Raises:
        InputError: if a column is missing or not obvious, an image does not exist or has two
            labels, or a split is unknown.
    """
    names = header_of(table)
    path_column = _chosen(table, names, columns.path, PATHS, "--path-column")
    label_column = _chosen(table, names, columns.label, LABELS, "--label-column")
    if columns.split is not None:
        _chosen(table, names, columns.split, (), "--split-column")
    listing = Listing("table", f"image table ({path_column}, {label_column})", table, {})
    listing.is_split = columns.split is not None
    rows = _labelled_images(table, path_column, label_column, listing.left_out)
    folders = class_names(table, {row[label_column] for row in rows.values()})
    for (path, row), file in zip(rows.items(), file_names(table.parent, list(rows)), strict=True):
        name = folders[row[label_column]]
        listing.files.setdefault(name, {})[file] = path
        facts = {key: value for key, value in row.items() if key not in ("class", "file", SPLIT)}
        if columns.split is not None:
            facts[SPLIT] = SPLIT_NAMES.get(row[columns.split].lower(), row[columns.split])
        listing.facts[name, file] = facts
    return listing


def _labelled_images(
    table: Path, path_column: str, label_column: str, left_out: Counter[str]
) -> dict[Path, dict[str, str]]:
    """Return image -> its row."""
    images = NamedImages(label_column, left_out)
    for line, row in read_rows(table):
        name = row[path_column]
        path = Path(os.path.normpath(table.parent / name))
        if not is_image(image_name(path)):
            left_out["rows that do not name an image"] += 1
        elif not row[label_column]:
            left_out["images without a label"] += 1
        else:
            images.add(path, row, f"{table} line {line}: {name!r}")
    rows = images.found(table, "paths are relative to the folder of the table")
    if not rows:
        raise InputError(f"{table} names no image with a label")
    return rows


def _chosen(
    table: Path, names: Sequence[str], given: str | None, obvious: Sequence[str], option: str
) -> str:
    """Return the column that is given, or the one with an obvious name."""
    if given is not None:
        if given not in names:
            raise InputError(f"{table} has no column {given!r}{nearest(given, names)}")
        return given
    found = [name for name in names if name.lower() in obvious]
    if len(found) != 1:
        raise InputError(
            f"cannot tell which column of {table} is for {option}; name it with {option}: "
            f"{', '.join(found or names)}"
        )
    return found[0]
