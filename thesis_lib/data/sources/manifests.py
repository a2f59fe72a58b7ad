"""Rebuild a published split from manifests: CSV files that list the images of each split."""

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thesis_lib.data.images import is_image
from thesis_lib.data.sources.folders import read_class_folders, split_folders
from thesis_lib.data.sources.text_tables import decoded, read_rows, reader_of
from thesis_lib.data.splits.recipes import SplitOptions
from thesis_lib.data.splits.sizes import check_rows_left, measure_sizes
from thesis_lib.data.splits.writer import Plan, check_places, write_split
from thesis_lib.errors import InputError

# number of manifests -> the splits that they list, in order
MANIFEST_SPLITS = {2: ("train", "test"), 3: ("train", "val", "test")}


@dataclass(frozen=True)
class ManifestReport:
    """What the user should know about a split that was rebuilt from manifests.

    ``missing``: listed images that the source does not have, which were left out; ``repeated``:
    images listed more than once in a manifest, which were placed once; ``in_two_splits``: images
    in more than one manifest, which were placed in each of these splits; ``unlisted``: number of
    images in the source that are in no manifest.
    """

    missing: list[str]
    repeated: list[str]
    in_two_splits: list[str]
    unlisted: int


def split_by_manifest(
    source: Path,
    destination: Path,
    manifests: Sequence[Path],
    options: SplitOptions | None = None,
    allow_missing: bool = False,
) -> ManifestReport:
    """Rebuild a published split of ``source`` from CSV files that list the images of each split.

    The result contains exactly the images in the manifests, even if an image is in two of them.
    The files are written as by ``split_dataset``.

    Args:
        source: the folder that contains the class folders.
        destination: the new folder of the split.
        manifests: the files for train, val, test, or for train, test. Each has the columns folder
            (a class) and filename (path below the class folder), is encoded in UTF-8, UTF-16
            or latin-1, and is separated by commas, semicolons or tabs. A .txt file has a path in
            each line, which ends in the class folder and what follows it.
        options: only ``copy``, ``crop_bottom`` and ``pixel_size`` are used.
        allow_missing: leave out listed images that are missing in ``source``.

    Raises:
        InputError: if the source is missing or unsuitable, the destination already exists, the
            manifests are unreadable or in the wrong order, a row does not name an image below a
            class folder, images are missing, or train has no images of a class.
    """
    splits = _splits_in_order(manifests)
    check_places(source, destination)
    if parts := split_folders(source):
        raise InputError(
            f"{source} is already split: it contains {', '.join(parts)}; give the folder of the "
            "unsplit data"
        )
    listing = read_class_folders(source)
    on_disk = {(name, file) for name, files in listing.files.items() for file in files}
    # Names on disk and in a CSV file may differ in Unicode normalisation (é as one or two
    # characters) and in surrounding spaces. An exact match takes precedence.
    images = {_composed(image): image for image in on_disk} | {image: image for image in on_disk}

    placed: dict[tuple[str, str], list[str]] = {}  # image -> its splits
    listed, missing, repeated = 0, [], []
    for split, path in zip(splits, manifests, strict=True):
        rows = Counter(
            images.get(row) or images.get(_composed(row)) or _composed(row)
            for row in _listed_images(path, images)
        )
        listed += len(rows)
        for image, times in rows.items():
            label = f"{split}: {'/'.join(image)} ({path.name})"
            if image not in on_disk:
                missing.append(label)
                continue
            placed.setdefault(image, []).append(split)
            if times > 1:
                repeated.append(label)
    if missing:
        _check_missing(source, missing, listed, allow_missing)

    plan: dict[str, dict[str, list[str]]] = {}
    for (name, file), its_splits in sorted(placed.items()):
        for split in its_splits:
            plan.setdefault(name, {split: [] for split in splits})[split].append(file)
    _check_plan(source, plan, splits)
    options = options or SplitOptions()
    described = {"manifests": [p.name for p in manifests], "crop_bottom": options.crop_bottom}
    files = {name: sorted(set().union(*its.values())) for name, its in plan.items()}
    check_rows_left(listing, files, options.crop_bottom)
    if options.pixel_size is not None:
        measure_sizes(listing, files, options.pixel_size, options.crop_bottom)
        described["pixel_size"] = options.pixel_size
    write_split(listing, destination, Plan(plan, described), options.copy)
    leaks = [f"{'/'.join(i)} ({', '.join(its)})" for i, its in placed.items() if len(its) > 1]
    return ManifestReport(missing, repeated, leaks, len(on_disk) - len(placed))


def manifest_counts(manifest: Path) -> dict[str, Counter[str]]:
    """Count the images of a split in its ``manifest.csv``: split -> class -> number."""
    counts: dict[str, Counter[str]] = {split: Counter() for split in MANIFEST_SPLITS[3]}
    for _, row in read_rows(manifest, ("split", "class")):
        counts[row["split"]][row["class"]] += 1
    return counts


def _splits_in_order(manifests: Sequence[Path]) -> tuple[str, ...]:
    if len(manifests) not in MANIFEST_SPLITS:
        raise InputError(
            f"--manifest takes three files (train val test) or two (train test), "
            f"not {len(manifests)}"
        )
    splits = MANIFEST_SPLITS[len(manifests)]
    for split, path in zip(splits, manifests, strict=True):
        words = set(MANIFEST_SPLITS[3]) & set(re.findall("[a-z]+", path.stem.lower()))
        if len(words) == 1 and words != {split}:
            raise InputError(
                f"{path} is given as the manifest of {split}; the order is {' '.join(splits)}: "
                "give the files in this order, or rename the file"
            )
    return splits


def _text_of(path: Path) -> str:
    try:
        return decoded(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"cannot read the manifest {path}: {error.strerror}; check its path"
        ) from None


def _listed_images(path: Path, images: Mapping[tuple[str, str], Any]) -> Iterator[tuple[str, str]]:
    """Yield the class and the file of each image that a manifest lists.

    images: the images of the source, which tell where in a path its class folder is.
    """
    text = _text_of(path)
    header = text.partition("\n")[0].lower()
    has_columns = "folder" in header and "filename" in header
    if path.suffix.lower() != ".txt" or has_columns:
        yield from _manifest_rows(path, text)
        return
    for line in text.splitlines():
        if not line.strip():
            continue
        parts = [part for part in re.split(r"[/\\]", line.strip()) if part not in ("", ".")]
        ends = [(name, "/".join(parts[i + 1 :])) for i, name in enumerate(parts[:-1])]
        if not ends:
            raise InputError(f"{path} has a line without a folder: {line.strip()!r}")
        yield next((end for end in ends if _composed(end) in images), ends[-1])


def _composed(image: tuple[str, str]) -> tuple[str, str]:
    name, file = image
    return unicodedata.normalize("NFC", name.strip()), unicodedata.normalize("NFC", file.strip())


def _manifest_rows(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """Yield the class and the file that each row of a table names."""
    reader = reader_of(text)
    try:
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        if not {"folder", "filename"} <= set(reader.fieldnames):
            raise InputError(
                f"{path} must have the columns folder and filename; "
                f"its first line is {text.partition(chr(10))[0].strip()[:80]!r}"
            )
        for row in reader:
            if not any(value.strip() for value in row.values() if isinstance(value, str)):
                continue  # a line of delimiters only, which spreadsheets often leave at the end
            if fault := _row_fault(row):
                raise InputError(f"{path} line {reader.line_num}: {fault}")
            yield row["folder"], row["filename"]
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num} is not valid CSV: {error}") from None


def _row_fault(row: dict[str | None, Any]) -> str:
    """Return what is wrong with a manifest's row and how to correct it, or ``""``."""
    if any(row.get(None, ())):
        return "more fields than the header; quote names that contain the delimiter"
    for column in ("folder", "filename"):
        name = row[column]
        if not name.strip():
            return f"{column} is empty; name a class folder and an image in it"
        steps = [step.strip() for step in name.split("/")]
        outside = not {"", ".", ".."}.isdisjoint(steps) or steps[0].endswith(":")  # C:/
        if outside or not set("\\\r\n\0").isdisjoint(name):
            return f"{column} {name!r} must be a name or a relative path with /, without . or .."
    if "/" in row["folder"]:
        return f"folder {row['folder']!r} must be a class; put its subfolders in column filename"
    if not is_image(row["filename"]):
        return f"filename {row['filename']!r} does not end like an image file; remove the row"
    return ""


def _check_missing(source: Path, missing: list[str], listed: int, allow_missing: bool) -> None:
    if len(missing) == listed:
        raise InputError(
            f"none of the {listed:,} listed images is in {source} (the first is {missing[0]}); "
            "this is probably the wrong folder: give the one that contains the class folders"
        )
    if not allow_missing:
        raise InputError(
            f"{len(missing):,} of {listed:,} listed images are missing in {source}: "
            f"{', '.join(missing)}; add --allow-missing to split the rest"
        )


def _check_plan(source: Path, plan: dict[str, dict[str, list[str]]], splits: Sequence[str]) -> None:
    for split in splits:
        if not any(files[split] for files in plan.values()):
            raise InputError(
                f"{split} would have no images; its manifest must list images that are in {source}"
            )
    lacking = [repr(name) for name, files in plan.items() if not files["train"]]
    if lacking:
        raise InputError(
            f"train has no images of the class {', '.join(lacking)}, but another split has; "
            "check that the manifests belong together, or remove the rows of this class"
        )
