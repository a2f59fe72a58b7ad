"""Read a learning set of EcoTaxa as published on SEANOE: ``imgs/<taxon>/`` and ``taxa.csv.gz``."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from thesis_lib.data.sources.folders import SPLIT, SPLIT_NAMES, read_class_folders
from thesis_lib.data.sources.listing import Listing, walk
from thesis_lib.data.sources.text_tables import read_rows
from thesis_lib.errors import InputError, first_few

COLUMNS = ("objid", "taxon")


def taxa_table(tables: Sequence[Path]) -> Path | None:
    """Return the one of some tables that lists the taxa of a learning set, or None."""
    named = (path for path in tables if path.name in ("taxa.csv.gz", "taxa.csv"))
    return next((path for path in named if (path.parent / "imgs").is_dir()), None)


def read_learning_set(root: Path, taxa: Path) -> Listing:
    """List the images of a learning set, with their lineage and published split.

    Raises:
        InputError: if the table lacks a column or names images that do not exist.
    """
    images = taxa.parent / "imgs"
    listing = read_class_folders(images)
    words = f"EcoTaxa learning set ({taxa.name})"
    listing = replace(listing, format="learning-set", words=words, root=root)
    rows = {row["objid"]: row for _, row in read_rows(taxa, COLUMNS)}
    unnamed = 0
    for name, files in listing.files.items():
        for file in list(files):
            row = rows.pop(Path(file).stem, None)
            if row is None:
                unnamed += 1
                del files[file]
                continue
            facts = {
                "objid": row["objid"],
                "taxon": row["taxon"],
                "lineage": row.get("lineage", ""),
            }
            if part := row.get("set", ""):
                facts[SPLIT] = SPLIT_NAMES.get(part.lower(), part)
            listing.facts[name, file] = facts
    if rows:
        raise InputError(
            f"{len(rows):,} of the objects in {taxa} have no image in imgs/: "
            f"{first_few(list(rows))}; unpack the archive again"
        )
    listing.left_out["images that taxa.csv does not name"] += unnamed
    for path in walk(root, Counter()):
        if not path.is_relative_to(images) and path != taxa:
            listing.left_out["other files, such as features and maps"] += 1
    return listing
