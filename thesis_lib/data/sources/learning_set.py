"""Read a learning set of EcoTaxa as published on SEANOE: ``imgs/<taxon>/`` and ``taxa.csv.gz``."""

from collections import Counter
from pathlib import Path

from thesis_lib.data.sources.folders import SPLIT, SPLIT_NAMES, read_class_folders
from thesis_lib.data.sources.listing import Listing, walk
from thesis_lib.data.sources.text_tables import read_rows
from thesis_lib.errors import InputError, first_few

COLUMNS = ("objid", "taxon")


def find_taxa(root: Path) -> Path | None:
    """Return the table of taxa of a learning set, or None."""
    names = ("taxa.csv.gz", "taxa.csv")
    tables = [path for path in walk(root, Counter()) if path.name in names]
    return next((path for path in tables if (path.parent / "imgs").is_dir()), None)


def read_learning_set(root: Path, taxa: Path) -> Listing:
    """List the images of a learning set, with their lineage and published split.

    Raises:
        InputError: if the table lacks a column or names images that do not exist.
    """
    listing = read_class_folders(taxa.parent / "imgs")
    listing.root, listing.format = root, f"EcoTaxa learning set ({taxa.name})"
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
    inside = sum(1 for _ in walk(taxa.parent / "imgs", Counter()))
    others = sum(1 for _ in walk(root, Counter())) - inside - 1
    listing.left_out["other files, such as features and maps"] += others
    listing.left_out += Counter()
    return listing
