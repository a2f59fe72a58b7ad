"""Merge, rename and drop classes by a table with the columns from and to."""

from dataclasses import replace
from pathlib import Path

from thesis_lib.data.sources.listing import Listing, check_distinct, class_names, folder_of
from thesis_lib.data.sources.text_tables import read_rows
from thesis_lib.errors import InputError, nearest

BEFORE = "class_before"  # the column of the facts with the class of the source


def apply_class_map(listing: Listing, table: Path) -> Listing:
    """Return a listing whose classes are renamed, merged or (with an empty ``to``) dropped.

    Classes that the table does not name stay as they are. ``from`` is the name of a class folder
    or of a category in EcoTaxa, such as ``egg<other``.

    Raises:
        InputError: if the table lacks a column, names an unknown class or one class twice.
    """
    target: dict[str, str] = {}
    for line, row in read_rows(table, ("from", "to")):
        name = row["from"] if row["from"] in listing.files else folder_of(row["from"])
        if name not in listing.files:
            raise InputError(
                f"{table} line {line}: {listing.root} has no class {row['from']!r}"
                f"{nearest(name, listing.files)}"
            )
        if name in target:
            raise InputError(f"{table} line {line}: the class {name!r} is named twice")
        target[name] = row["to"]
    folders = class_names(table, {name for name in target.values() if name})
    mapped = replace(listing, files={}, facts={}, options={**listing.options, "classes": target})
    for name, files in listing.files.items():
        new = folders.get(target.get(name, ""), name if name not in target else "")
        if not new:
            mapped.left_out[f"images of {name!r}, which {table.name} drops"] += len(files)
            continue
        for file, path in files.items():
            taken, renamed = mapped.files.setdefault(new, {}), file
            while renamed in taken:
                renamed = f"{name}/{renamed}"
            taken[renamed] = path
            facts = listing.facts.get((name, file), {})
            mapped.facts[new, renamed] = facts | {BEFORE: name}
    check_distinct(listing.root, {name: name for name in mapped.files})
    return mapped
