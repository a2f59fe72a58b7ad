"""Read an export of EcoTaxa: tables (TSV) beside images, in any of EcoTaxa's layouts.

The layouts differ in where the tables and images lie: one table with ``images/<taxon>/``, a table
and a folder per sample, acquisition or taxon, or flat images beside one table (PlanktoScope). In
all of them, ``img_file_name`` is the path of an image below the folder of the table.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from thesis_lib.data.images import image_name, is_image
from thesis_lib.data.sources import STATUSES
from thesis_lib.data.sources.listing import Listing, NamedImages, class_names, file_names, walk
from thesis_lib.data.sources.text_tables import header_of, read_rows
from thesis_lib.errors import InputError

NEEDED = ("img_file_name", "object_id")
CATEGORY, STATUS = "object_annotation_category", "object_annotation_status"
# The columns that manifest.csv keeps, if an export has them.
KEPT = (
    *("object_id", CATEGORY, "object_annotation_hierarchy", STATUS, "sample_id", "acq_id"),
    *("object_date", "object_time", "object_lat", "object_lon"),
    *("object_depth_min", "object_depth_max"),
    *("object_area", "object_major", "object_minor", "object_feret", "object_esd"),
    "process_pixel",
)
TYPES = {"[t]", "[f]", ""}  # the values of the row of types below the header
OUTSIDE = re.compile(r"[/\\]|[A-Za-z]:|.*(^|/)\.\.(/|$)|.*[\r\n\0]")

Row = dict[str, str]


def export_tables(tables: Sequence[Path]) -> list[Path]:
    """Return those of some tables that belong to an EcoTaxa export."""
    return [path for path in tables if set(NEEDED) <= set(header_of(path))]


def read_ecotaxa(
    root: Path,
    tables: Sequence[Path],
    statuses: Sequence[str] = ("validated",),
    all_images: bool = False,
    columns: Sequence[str] = (),
) -> Listing:
    """List the images of an EcoTaxa export by their category.

    Args:
        root: the folder of the export.
        tables: see :func:`export_tables`.
        statuses: take objects with one of these ``STATUSES`` only.
        all_images: take all images of an object, not only the one with the lowest ``img_rank``.
        columns: further columns to keep in ``facts``, besides ``KEPT``.

    Returns:
        A listing whose classes are categories, with ``_`` for characters that folders cannot
        have: ``egg<other`` becomes ``egg_other``.

    Raises:
        InputError: if no object has a category or one of the statuses, files or object ids are
            missing, a file has two categories, or two categories would get the same folder.
    """
    words = f"EcoTaxa export ({len(tables)} {'table' if len(tables) == 1 else 'tables'})"
    listing = Listing("ecotaxa", words, root, {})
    listing.options = {"status": list(statuses), "all_images": all_images}
    rows = _rows(root, tables, columns, listing.left_out)
    named = {*rows, *tables}
    rows = _with_category(root, rows, listing.left_out)
    rows = _with_status(root, rows, statuses, listing.left_out)
    if not all_images:
        rows = _lowest_rank(rows, listing.left_out)
    folders = class_names(root, {row[CATEGORY] for row in rows.values()})
    for path, name in zip(rows, file_names(root, list(rows)), strict=True):
        category = rows[path][CATEGORY]
        listing.files.setdefault(folders[category], {})[name] = path
        kept = {key: rows[path].get(key, "") for key in (*KEPT, *columns) if key in rows[path]}
        listing.facts[folders[category], name] = kept
    for path in walk(root, listing.left_out):
        if path not in named:
            is_one = is_image(image_name(path))
            what = "images that no row names" if is_one else "other files"
            listing.left_out[what] += 1
    return listing


def _rows(
    root: Path, tables: Sequence[Path], columns: Sequence[str], left_out: Counter[str]
) -> dict[Path, Row]:
    """Return image -> its row, of all tables."""
    images = NamedImages(CATEGORY, left_out)
    for table in tables:
        for line, row in read_rows(table, (*NEEDED, *columns)):
            if set(row.values()) <= TYPES:
                continue
            name, where = row["img_file_name"], f"{table} line {line}"
            if not name or OUTSIDE.match(name):
                raise InputError(
                    f"{where}: img_file_name {name!r} must be a path below the folder of the table"
                )
            if not is_image(image_name(table.parent / name)):
                left_out["rows that do not name an image"] += 1
                continue
            if not row["object_id"]:
                raise InputError(f"{where}: {name!r} has no object_id; give it one")
            kept = {key: row[key] for key in (*KEPT, "img_rank", *columns) if key in row}
            kept[CATEGORY] = row.get(CATEGORY) or row.get(f"{CATEGORY}_id", "")
            images.add(table.parent / name, kept, f"{where}: {name!r}")
    return images.found(
        root,
        "export them, remove their rows, or write --format class-folders if the folders are the "
        "classes",
    )


def _with_category(root: Path, rows: dict[Path, Row], left_out: Counter[str]) -> dict[Path, Row]:
    found = {path: row for path, row in rows.items() if row[CATEGORY]}
    if not found:
        raise InputError(
            f"no object of {root} has a category, so there is nothing to learn from; to classify "
            "its images with a finished run, use `thesis predict RUN IMAGES`"
        )
    left_out["images without a category"] += len(rows) - len(found)
    return found


def _with_status(
    root: Path, rows: dict[Path, Row], statuses: Sequence[str], left_out: Counter[str]
) -> dict[Path, Row]:
    if not any(STATUS in row for row in rows.values()):
        return rows
    # A table without the column is taken whole, as if it were the only one.
    status_of = {path: row.get(STATUS, statuses[0]) or STATUSES[-1] for path, row in rows.items()}
    counts = Counter(status_of.values())
    found = {path: row for path, row in rows.items() if status_of[path] in statuses}
    if not found:
        listed = ", ".join(f"{number:,} {status}" for status, number in counts.most_common())
        raise InputError(
            f"{root} has no {' or '.join(statuses)} images, but {listed}; choose with --status"
        )
    for status, number in counts.items():
        if status not in statuses:
            left_out[f"images with the status {status} (see --status)"] += number
    return found


def _lowest_rank(rows: dict[Path, Row], left_out: Counter[str]) -> dict[Path, Row]:
    """Keep one image of each object: the one with the lowest ``img_rank``."""

    def rank(path: Path) -> float:
        try:
            return float(rows[path].get("img_rank", "").replace(",", "."))
        except ValueError:
            return 0.0

    best: dict[tuple[str, str], Path] = {}
    for path, row in rows.items():
        key = row.get("sample_id", ""), row["object_id"]
        if key not in best or rank(path) < rank(best[key]):
            best[key] = path
    left_out["further images of the same object (see --all-images)"] += len(rows) - len(best)
    kept = set(best.values())
    return {path: row for path, row in rows.items() if path in kept}
