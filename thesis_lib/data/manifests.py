"""A published split, rebuilt from the manifests that list its parts."""

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thesis_lib.data.images import class_folders, image_files, is_image
from thesis_lib.data.splits import check_places, write_split
from thesis_lib.errors import InputError

# number of manifests -> the parts that they list, in their order
MANIFEST_SPLITS = {2: ("train", "test"), 3: ("train", "val", "test")}


@dataclass(frozen=True)
class ManifestReport:
    """What to know of a split that was rebuilt from manifests.

    ``missing`` rows were left out, ``repeated`` ones placed once, images ``in_two_parts`` placed
    in both; ``unlisted`` images of the source are in no manifest.
    """

    missing: list[str]
    repeated: list[str]
    in_two_parts: list[str]
    unlisted: int


def split_by_manifest(
    source: Path,
    destination: Path,
    manifests: Sequence[Path],
    copy: bool = False,
    allow_missing: bool = False,
) -> ManifestReport:
    """Rebuild a published split of ``source`` from CSV files that list its parts.

    The split holds the manifests' rows and nothing else, leaks between its parts included. It is
    written as by ``split_dataset``.

    Args:
        source: the folder of class folders.
        destination: the split's new folder.
        manifests: train, val, test or train, test; each with the columns folder (a class) and
            filename (below it), in UTF-8 or latin-1, parted by commas, semicolons or tabs.
        copy: copy files instead of linking them.
        allow_missing: leave out the listed images that ``source`` lacks.

    Raises:
        InputError: for a missing or unsuitable source, a destination that is there already,
            manifests that are unreadable or in another order, a row that names no image below
            a class folder, images that are missing, or a class that train lacks.
    """
    parts = _parts_in_order(manifests)
    check_places(source, destination)
    on_disk = {(f.name, file) for f in class_folders(source) for file in image_files(f)}
    # Disks and CSV files differ in spelling é as one character or as two, and in blanks at the
    # ends: the very spelling of the row goes first, then the other one.
    images = {_composed(image): image for image in on_disk} | {image: image for image in on_disk}

    placed: dict[tuple[str, str], list[str]] = {}  # image -> its parts
    listed, missing, repeated = 0, [], []
    for part, path in zip(parts, manifests, strict=True):
        rows = Counter(
            images.get(row) or images.get(_composed(row)) or _composed(row)
            for row in _manifest_rows(path)
        )
        listed += len(rows)
        for image, times in rows.items():
            label = f"{part}: {'/'.join(image)} ({path.name})"
            if image not in on_disk:
                missing.append(label)
                continue
            placed.setdefault(image, []).append(part)
            if times > 1:
                repeated.append(label)
    if missing:
        _check_missing(source, missing, listed, allow_missing)

    plan: dict[str, dict[str, list[str]]] = {}
    for (name, file), its_parts in sorted(placed.items()):
        for part in its_parts:
            plan.setdefault(name, {part: [] for part in parts})[part].append(file)
    _check_plan(source, plan, parts)
    write_split(source, destination, plan, copy)
    leaks = [f"{'/'.join(i)} ({', '.join(its)})" for i, its in placed.items() if len(its) > 1]
    return ManifestReport(missing, repeated, leaks, len(on_disk) - len(placed))


def _parts_in_order(manifests: Sequence[Path]) -> tuple[str, ...]:
    if len(manifests) not in MANIFEST_SPLITS:
        raise InputError(
            f"--manifest takes the three files train val test, or the two train test, "
            f"not {len(manifests)}"
        )
    parts = MANIFEST_SPLITS[len(manifests)]
    for part, path in zip(parts, manifests, strict=True):
        words = set(MANIFEST_SPLITS[3]) & set(re.findall("[a-z]+", path.stem.lower()))
        if len(words) == 1 and words != {part}:
            raise InputError(
                f"{path} stands in the place of {part}; the order is {' '.join(parts)}: "
                "give the files so, or rename it"
            )
    return parts


def _composed(image: tuple[str, str]) -> tuple[str, str]:
    name, file = image
    return unicodedata.normalize("NFC", name.strip()), unicodedata.normalize("NFC", file.strip())


def _manifest_rows(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the class and the file that each row of a manifest names."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the manifest {path}: {error.strerror}; give a CSV file"
        ) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = io.StringIO(text, newline="")
    header = lines.readline()
    lines.seek(0)
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(lines, delimiter=delimiter, restval="", strict=True)
    try:
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        if not {"folder", "filename"} <= set(reader.fieldnames):
            raise InputError(
                f"{path} must have the columns folder and filename; "
                f"its first line is {header.strip()[:80]!r}"
            )
        for row in reader:
            if not any(value.strip() for value in row.values() if isinstance(value, str)):
                continue  # a line of delimiters alone, as spreadsheets leave at the end
            if fault := _row_fault(row):
                raise InputError(f"{path} line {reader.line_num}: {fault}")
            yield row["folder"], row["filename"]
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num} is no sound CSV: {error}") from None


def _row_fault(row: dict[str | None, Any]) -> str:
    """What to put right in a manifest's row, or ``""``."""
    if any(row.get(None, ())):
        return "more fields than the header; a name that holds the delimiter needs quotes"
    for column in ("folder", "filename"):
        name = row[column]
        if not name.strip():
            return f"{column} is empty; name a class folder and an image in it"
        steps = [step.strip() for step in name.split("/")]
        outside = not {"", ".", ".."}.isdisjoint(steps) or steps[0].endswith(":")  # C:/
        if outside or not set("\\\r\n\0").isdisjoint(name):
            return f"{column} {name!r} must be a plain name, or a path downwards with / between"
    if "/" in row["folder"]:
        return f"folder {row['folder']!r} must be one class folder; subfolders go before filename"
    if not is_image(row["filename"]):
        return f"filename {row['filename']!r} is no image by its suffix; remove the row"
    return ""


def _check_missing(source: Path, missing: list[str], listed: int, allow_missing: bool) -> None:
    if len(missing) == listed:
        raise InputError(
            f"none of the {listed:,} listed images is in {source}, the first being {missing[0]}; "
            "this is likely the wrong folder: give the one that holds the class folders"
        )
    if not allow_missing:
        raise InputError(
            f"{len(missing):,} of {listed:,} listed images are missing in {source}: "
            f"{', '.join(missing)}; split the rest with --allow-missing"
        )


def _check_plan(source: Path, plan: dict[str, dict[str, list[str]]], parts: Sequence[str]) -> None:
    for part in parts:
        if not any(files[part] for files in plan.values()):
            raise InputError(
                f"{part} would have no image; its manifest must list some that {source} holds"
            )
    lacking = [repr(name) for name, files in plan.items() if not files["train"]]
    if lacking:
        raise InputError(
            f"train has no image of the class {', '.join(lacking)}, which another part has; "
            "check that the manifests belong together, or remove the rows of this class"
        )
