"""The command that makes data sets: `thesis split`.

Other packages are imported inside the functions: torch takes seconds to load, which would slow
down `thesis --help`.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from thesis_lib.errors import InputError

RECIPE_OPTIONS = (
    *("recipe", "seed", "min_images", "exclude", "group_by", "group_by_column", "test_group"),
)
READING_OPTIONS = (
    *("format", "status", "all_images", "published_split", "classes"),
    *("path_column", "label_column", "split_column"),
)
# what a published split has fixed
PUBLISHED = ("recipe", "seed", "group_by", "group_by_column", "test_group")
MOST_CLASSES = 100  # rows of the table of classes


def split(options: argparse.Namespace) -> int:
    """Split a source by a recipe or as it was published, or rebuild a split from its manifests."""
    from thesis_lib.data.sources import unpacked
    from thesis_lib.data.splits import check_places

    given = {n: v for n in RECIPE_OPTIONS if (v := getattr(options, n)) is not None}
    if options.manifest is None and options.allow_missing:
        raise InputError("--allow-missing needs --manifest")
    defined = [n for n in READING_OPTIONS if getattr(options, n)] + list(given)
    if options.manifest is not None and defined:
        option = defined[0].replace("_", "-")
        raise InputError(f"--{option} cannot be used with --manifest, which defines the split")
    with unpacked(options.source, options.destination) as source:
        check_places(source, options.destination)
        if options.manifest is None:
            _split_by_recipe(options, source, given)
        else:
            _split_by_manifest(options, source)
    print("\n".join(_described(options.destination)))
    if options.crop_bottom:
        print(
            f"the bottom {options.crop_bottom} rows of each image will be cut off "
            f"(crop_bottom in {options.destination / 'dataset.json'})"
        )
    print(f"continue with: thesis run --data {options.destination}")
    return 0


def _split_by_recipe(options: argparse.Namespace, source: Path, given: dict[str, Any]) -> None:
    from thesis_lib.data.sources import Columns, Reading, apply_class_map, read_source
    from thesis_lib.data.splits import (
        SplitOptions,
        describe_groups,
        grouping_of,
        is_number,
        split_listing,
    )

    columns = Columns(options.path_column, options.label_column, options.split_column)
    pixels = options.pixel_size if not is_number(options.pixel_size or "0") else None
    keep = [name for name in (options.group_by_column, pixels) if name]
    reading = Reading(options.format, options.status, options.all_images, keep, columns)
    listing = read_source(source, reading)
    if options.classes is not None:
        listing = apply_class_map(listing, options.classes)
    published = options.published_split or (listing.is_split and "recipe" not in given)
    fixed = [name for name in PUBLISHED if name in given]
    if published and fixed:
        option = fixed[0].replace("_", "-")
        raise InputError(f"--{option} cannot be used where the split is taken over from the source")
    asked = SplitOptions(**given, **_of_any_split(options), as_published=published)
    left_out = split_listing(listing, options.destination, asked)
    print("\n".join(listing.describe()).replace(str(source), str(options.source)))
    for name, num_images in left_out.items():
        images = "1 image" if num_images == 1 else f"{num_images} images"
        print(f"left out: {name!r} ({images}, fewer than {options.min_images})")
    if grouping_of(listing, asked) is not None:
        print("\n".join(describe_groups(options.destination / "manifest.csv")))


def _split_by_manifest(options: argparse.Namespace, source: Path) -> None:
    from thesis_lib.data.sources import split_by_manifest
    from thesis_lib.data.splits import SplitOptions

    asked = SplitOptions(**_of_any_split(options))
    report = split_by_manifest(
        source, options.destination, options.manifest, asked, options.allow_missing
    )
    for label, found in (
        ("missing, left out", report.missing),
        ("listed more than once, placed once", report.repeated),
        ("in two splits, as published", report.in_two_splits),
    ):
        for image in found:
            print(f"{label}: {image}")
    if report.unlisted:
        print(f"left out: {report.unlisted:,} images of {options.source} that no manifest lists")


def _of_any_split(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("copy", "crop_bottom", "pixel_size")}


def _described(folder: Path) -> list[str]:
    """Describe a split by a table of its classes, with their number of images in each split."""
    from thesis_lib.data.sources import manifest_counts

    counts = manifest_counts(folder / "manifest.csv")
    splits = [name for name in ("train", "val", "test") if any(counts[name].values())]
    in_all: Counter[str] = sum(counts.values(), Counter())
    width = max(map(len, in_all))
    lines = [f"{'class':<{width}}" + "".join(f"{split:>9}" for split in splits)]
    for name, _ in in_all.most_common(MOST_CLASSES):
        lines.append(f"{name:<{width}}" + "".join(f"{counts[s][name]:>9,}" for s in splits))
    if len(in_all) > MOST_CLASSES:
        lines.append(f"and {len(in_all) - MOST_CLASSES:,} smaller classes, see manifest.csv")
    lines += [
        f"{folder / split}: {counts[split].total():,} images of {len(counts[split])} classes"
        for split in splits
    ]
    return lines
