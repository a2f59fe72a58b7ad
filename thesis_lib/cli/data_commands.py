"""The command that makes data sets: `thesis split`.

Other packages are imported inside the functions: torch takes seconds to load, which would slow
down `thesis --help`.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from thesis_lib.errors import InputError

RECIPE_OPTIONS = ("recipe", "seed", "min_images", "exclude", "group_by")


def split(options: argparse.Namespace) -> int:
    """Split class folders by a recipe, or rebuild a split from its manifests."""
    from thesis_lib.data.archives import unpacked

    given = {n: v for n in RECIPE_OPTIONS if (v := getattr(options, n)) is not None}
    if options.manifest is None and options.allow_missing:
        raise InputError("--allow-missing needs --manifest")
    if options.manifest is not None and given:
        option = next(iter(given)).replace("_", "-")
        raise InputError(f"--{option} cannot be used with --manifest, which defines the split")
    with unpacked(options.source, options.destination) as source:
        if options.manifest is None:
            _split_by_recipe(options, source, given)
        else:
            _split_by_manifest(options, source)
    for split_folder in sorted(p for p in options.destination.iterdir() if p.is_dir()):
        classes = [p for p in split_folder.iterdir() if p.is_dir()]
        num_images = sum(len(files) for _, _, files in os.walk(split_folder))
        print(f"{split_folder}: {num_images:,} images of {len(classes)} classes")
    return 0


def _split_by_recipe(options: argparse.Namespace, source: Path, given: dict[str, Any]) -> None:
    from thesis_lib.data.grouped_split import describe_groups
    from thesis_lib.data.splits import split_dataset

    left_out = split_dataset(source, options.destination, copy=options.copy, **given)
    for name, num_images in left_out.items():
        print(f"left out: {name!r} ({num_images} images, fewer than {options.min_images})")
    if options.group_by is not None:
        print("\n".join(describe_groups(options.destination / "manifest.csv")))


def _split_by_manifest(options: argparse.Namespace, source: Path) -> None:
    from thesis_lib.data.manifests import split_by_manifest

    report = split_by_manifest(
        source, options.destination, options.manifest, options.copy, options.allow_missing
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
