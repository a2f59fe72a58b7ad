"""Recognise what a source is, and list its images by class."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from thesis_lib.data.images import class_folders
from thesis_lib.data.sources.ecotaxa import export_tables, read_ecotaxa
from thesis_lib.data.sources.folders import (
    GROUP,
    SPLIT,
    YEAR,
    check_are_classes,
    period_folders,
    read_class_folders,
    read_folders_of,
    split_folders,
)
from thesis_lib.data.sources.labelled_table import Columns, read_labelled_table
from thesis_lib.data.sources.learning_set import read_learning_set, taxa_table
from thesis_lib.data.sources.listing import Listing, tables_in
from thesis_lib.errors import InputError

LACKING = {
    "ecotaxa": "a table with the columns img_file_name and object_id",
    "learning-set": "a table taxa.csv.gz beside the folder imgs/",
    "groups": "folders of class folders",
    "split": "folders train/ and test/ of class folders",
    "table": "a table: give the CSV or TSV file itself",
}
OPTIONS_OF = {"ecotaxa": "an EcoTaxa export", "table": "an image table"}


@dataclass(frozen=True)
class Reading:
    """How to read a source.

    Args:
        format: one of :data:`thesis_lib.data.sources.FORMATS`; None: recognise it.
        statuses, all_images: of an EcoTaxa export, see
            :func:`thesis_lib.data.sources.ecotaxa.read_ecotaxa`.
        keep: columns of an export's tables to keep, besides the usual ones.
        columns: those of a table of images and labels.
    """

    format: str | None = None
    statuses: Sequence[str] | None = None
    all_images: bool = False
    keep: Sequence[str] = ()
    columns: Columns = field(default_factory=Columns)


def read_source(root: Path, reading: Reading) -> Listing:
    """List the images of a source by class, in the given format or the one that it looks like.

    Raises:
        InputError: if the source is not of the given format, options do not fit the format, or
            its folders do not look like classes.
    """
    listing = _read(root, reading)
    if listing is None:
        assert reading.format is not None
        raise InputError(
            f"{root} is not of the format {reading.format}: it lacks "
            f"{LACKING[reading.format]}; leave out --format to recognise the format"
        )
    for option, given, name in (
        ("--status", reading.statuses, "ecotaxa"),
        ("--all-images", reading.all_images, "ecotaxa"),
        ("--path-column", reading.columns.path, "table"),
        ("--label-column", reading.columns.label, "table"),
        ("--split-column", reading.columns.split, "table"),
    ):
        if given and listing.format != name:
            raise InputError(
                f"{option} is for {OPTIONS_OF[name]}, but {root} has {listing.words}; leave it out"
            )
    return listing


def _read(root: Path, reading: Reading) -> Listing | None:
    asked = reading.format
    if root.is_file():
        if asked is None and export_tables([root]):
            raise InputError(f"{root} is the table of an EcoTaxa export; give its folder")
        is_asked = asked in (None, "table")
        return read_labelled_table(root, reading.columns) if is_asked else None
    tables = tables_in(root) if asked in (None, "ecotaxa", "learning-set") else []
    if asked in (None, "ecotaxa") and (exported := export_tables(tables)):
        statuses = reading.statuses or ("validated",)
        return read_ecotaxa(root, exported, statuses, reading.all_images, reading.keep)
    if asked in (None, "learning-set") and (taxa := taxa_table(tables)):
        return read_learning_set(root, taxa)
    if asked in (None, "split") and (parts := split_folders(root)):
        if "test" not in parts.values():
            raise InputError(
                f"{root} is split into {' and '.join(parts)}, but has no test; add its folder, or "
                f"give {root / next(iter(parts))} to split that"
            )
        return read_folders_of(root, parts, SPLIT)
    tops = {folder.name: folder.name for folder in class_folders(root) if class_folders(folder)}
    if (asked is None and period_folders(root)) or (asked == "groups" and tops):
        years = all(re.fullmatch(r"\d{4}", name) for name in tops)
        return read_folders_of(root, tops, YEAR if years else GROUP)
    if asked not in (None, "class-folders"):
        return None
    listing = read_class_folders(root)
    if asked is None:
        check_are_classes(listing)
    return listing
