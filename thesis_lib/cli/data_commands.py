"""The command that makes data sets: `thesis split`.

Other packages are imported inside the functions: torch takes seconds to load, which would slow
down `thesis --help`.
"""

import argparse
from pathlib import Path
from typing import Any

from thesis_lib.errors import InputError

RECIPE_OPTIONS = (
    *("recipe", "seed", "folds", "min_images", "exclude"),
    *("group_by", "group_by_column", "test_group"),
)
READING_OPTIONS = (
    *("format", "status", "all_images", "published_split", "classes"),
    *("path_column", "label_column", "split_column"),
)
# what a published split has fixed
PUBLISHED = ("recipe", "seed", "folds", "group_by", "group_by_column", "test_group")


def split(options: argparse.Namespace) -> int:
    """Split a source by a recipe or as it was published, or rebuild a split from its manifests."""
    from thesis_lib.data.sources import unpacked
    from thesis_lib.data.splits import check_places, describe_split

    given = {n: v for n in RECIPE_OPTIONS if (v := getattr(options, n)) is not None}
    if options.manifest is None and options.allow_missing:
        raise InputError("--allow-missing needs --manifest")
    defined = [n for n in READING_OPTIONS if getattr(options, n)] + list(given)
    if options.manifest is not None and defined:
        option = defined[0].replace("_", "-")
        raise InputError(f"--{option} cannot be used with --manifest, which defines the split")
    splits = _splits_to_make(options.destination, given)
    with unpacked(options.source, options.destination) as source:
        for destination in splits:
            check_places(source, destination)
        if options.manifest is None:
            _split_by_recipe(options, source, splits)
        else:
            _split_by_manifest(options, source)
    for destination in splits:
        print("\n".join(describe_split(destination)))
    places = " ".join(map(str, splits))
    if options.crop_bottom:
        print(
            f"the bottom {options.crop_bottom} rows of each image will be cut off "
            f"(crop_bottom in dataset.json of {places})"
        )
    print(f"continue with: thesis run --data {places}")
    return 0


def _splits_to_make(destination: Path, given: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """Return the folder of each split that is asked for, with its options of the recipe.

    Raises:
        InputError: if several seeds are given with folds, or a seed twice.
    """
    seeds, folds = given.pop("seed", []), given.get("folds")
    if len(set(seeds)) < len(seeds):
        raise InputError("--seed names a seed twice")
    if folds is not None:
        if len(seeds) > 1:
            raise InputError("--folds makes the folds of one seed; give a single --seed")
        seed = {"seed": seeds[0]} if seeds else {}
        return {
            destination.with_name(f"{destination.name}-fold{fold}"): given | seed | {"fold": fold}
            for fold in range(1, max(folds, 1) + 1)
        }
    if len(seeds) > 1:
        return {
            destination.with_name(f"{destination.name}-seed{seed}"): given | {"seed": seed}
            for seed in seeds
        }
    return {destination: given | ({"seed": seeds[0]} if seeds else {})}


def _split_by_recipe(
    options: argparse.Namespace, source: Path, splits: dict[Path, dict[str, Any]]
) -> None:
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
    given = next(iter(splits.values()))
    published = options.published_split or (listing.is_split and "recipe" not in given)
    fixed = [name for name in PUBLISHED if name in given]
    if published and fixed:
        option = fixed[0].replace("_", "-")
        raise InputError(f"--{option} cannot be used where the split is taken over from the source")
    asked = {
        destination: SplitOptions(**its, **_of_any_split(options), as_published=published)
        for destination, its in splits.items()
    }
    for destination, of_it in asked.items():
        left_out = split_listing(listing, destination, of_it)  # the same for each
    print("\n".join(listing.describe()).replace(str(source), str(options.source)))
    for name, num_images in left_out.items():
        images = "1 image" if num_images == 1 else f"{num_images} images"
        print(f"left out: {name!r} ({images}, fewer than {options.min_images})")
    for destination, of_it in asked.items():
        if grouping_of(listing, of_it) is not None:
            print("\n".join(describe_groups(destination / "manifest.csv")))


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
