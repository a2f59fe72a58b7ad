"""Read the place of each class in a tree of taxa, from ``taxonomy.csv`` or an export's lineages."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from thesis_lib.data.sources.text_tables import header_of, read_rows
from thesis_lib.errors import InputError, nearest

FILE = "taxonomy.csv"
LINEAGES = ("object_annotation_hierarchy", "lineage")  # columns of manifest.csv, from exports
SEPARATORS = (">", ";", "/")
LIVING = {
    **dict.fromkeys(("yes", "true", "1", "living"), True),
    **dict.fromkeys(("no", "false", "0", "not-living", "non-living"), False),
}
# EcoTaxa's roots; it took "Biota" over from WoRMS in place of "living".
ROOTS = {"living": True, "biota": True, "not-living": False}

Lineage = tuple[str, ...]


@dataclass(frozen=True)
class Taxonomy:
    """A tree of taxa whose leaves are the classes of a data set.

    ``lineages`` has the taxa of each class from the root down, with the class itself last.
    ``living`` says of some classes whether they are organisms. ``aphia_ids`` are WoRMS's numbers of
    some classes. ``source`` is the file that was read.
    """

    lineages: Mapping[str, Lineage]
    source: str
    living: Mapping[str, bool] = field(default_factory=dict)
    aphia_ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """The number of levels of the tree below its root."""
        return max(map(len, self.lineages.values()))

    def taxon(self, name: str, level: int) -> Lineage:
        """Return the taxon of a class at a level, 1 being the highest: the lineage down to it.

        A class that stands higher than the level is its own taxon.
        """
        return self.lineages[name][:level]

    def distance(self, one: str, other: str) -> int:
        """Return the number of steps from one class to the other by their common taxon."""
        first, second = self.lineages[one], self.lineages[other]
        common = 0
        while common < min(len(first), len(second)) and first[common] == second[common]:
            common += 1
        return len(first) + len(second) - 2 * common


def read_taxonomy(folder: Path, classes: Sequence[str]) -> Taxonomy | None:
    """Read ``taxonomy.csv`` of a data set, or else the lineages that an export gave its images.

    ``taxonomy.csv`` has the columns ``class``, and either ``lineage`` (taxa from the root down,
    separated by ``>``, ``;`` or ``/``) or ``parent`` (with rows for the parents, too); it may have
    ``living`` (yes or no) and ``aphia_id``. Classes that it lacks stand directly below the root.

    Args:
        folder: the data set's folder.
        classes: its classes.

    Returns:
        The taxonomy, or None if the data set has none.

    Raises:
        InputError: if the table names none of the classes, has a value that cannot be understood,
            or a taxon is its own ancestor.
    """
    file, manifest = folder / FILE, folder / "manifest.csv"
    if file.is_file():
        return _from_table(file, classes)
    names = header_of(manifest) if manifest.is_file() else []
    for column in LINEAGES:
        if column in names:
            rows = (row for _, row in read_rows(manifest, ("class",)))
            found = _of_images(((row["class"], row[column]) for row in rows), classes)
            return Taxonomy(found, "manifest.csv", _living_by_root(found)) if found else None
    return None


def _from_table(file: Path, classes: Sequence[str]) -> Taxonomy:
    names = header_of(file)
    if not {"lineage", "parent"} & set(names):
        raise InputError(f"{file} needs a column 'lineage' or 'parent' beside 'class'")
    rows = {row["class"]: row for _, row in read_rows(file, ("class",))}
    if not set(rows) & set(classes):
        raise InputError(
            f"{file} names none of the {len(classes)} classes of the data set; its first class is "
            f"{next(iter(rows), '')!r}{nearest(next(iter(rows), ''), classes)}"
        )
    if "lineage" in names:
        found = {name: split_lineage(row["lineage"], name, name) for name, row in rows.items()}
    else:
        found = {name: _up_to_root(name, rows, file) for name in rows}
    lineages = {name: found.get(name, (name,)) for name in classes}
    living = _living_by_root(lineages)
    for name, row in rows.items():
        said = row.get("living", "").strip().lower()
        if said and said not in LIVING:
            raise InputError(f"{file}: 'living' of {name!r} must be yes or no, not {said!r}")
        if said and name in lineages:
            living[name] = LIVING[said]
    ids = {name: row["aphia_id"] for name, row in rows.items() if row.get("aphia_id")}
    return Taxonomy(lineages, FILE, living, {n: ids[n] for n in classes if n in ids})


def split_lineage(text: str, name: str, own_taxon: str) -> Lineage:
    """Return the taxa of a lineage from the root down, with the class ``name`` as the last one.

    If the lineage ends in ``own_taxon``, this stands for the class and is replaced by its name.
    """
    separator = next((sign for sign in SEPARATORS if sign in text), SEPARATORS[0])
    taxa = [taxon.strip() for taxon in text.split(separator)]
    taxa = [taxon for taxon in taxa if taxon and taxon != "#"]
    own = (name.lower(), own_taxon.lower())
    return (*(taxa[:-1] if taxa and taxa[-1].lower() in own else taxa), name)


def _of_images(rows: Iterable[tuple[str, str]], classes: Sequence[str]) -> dict[str, Lineage]:
    """Return the lineages of classes from those of their images; {} if no image has one.

    EcoTaxa ends a lineage with the first part of the category: the class ``egg_other``
    (``egg<other``) has the lineage ``Biota>other>egg``. A class of several lineages, merged by
    ``--classes``, stands below what they have in common.
    """
    found: dict[str, set[str]] = {}
    for name, text in rows:
        if text:
            found.setdefault(name, set()).add(text)
    if not found:
        return {}
    lineages = {}
    for name in classes:
        texts, own = sorted(found.get(name, ())), re.split(r"[<_]", name)[0]
        several = [split_lineage(text, name, own)[:-1] for text in texts]
        common = []
        for taxa in zip(*several, strict=False):
            if len(set(taxa)) > 1:
                break
            common.append(taxa[0])
        lineages[name] = (*common, name)
    return lineages


def _up_to_root(name: str, rows: Mapping[str, Mapping[str, str]], file: Path) -> Lineage:
    lineage = [name]
    while parent := rows.get(lineage[0], {}).get("parent", "").strip():
        if parent in lineage:
            raise InputError(f"{file}: {parent!r} is its own ancestor; mend the column 'parent'")
        lineage.insert(0, parent)
    return tuple(lineage)


def _living_by_root(lineages: Mapping[str, Lineage]) -> dict[str, bool]:
    """Return which classes live, as far as the root of their lineage says it."""
    roots = {name: lineage[0].lower() for name, lineage in lineages.items()}
    return {name: ROOTS[root] for name, root in roots.items() if root in ROOTS}
