"""Class folders -> train / val / test: the thesis's two recipes, and a manifest."""

import csv
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import psutil

from thesis_lib.data.grouped_split import group_of, split_groups
from thesis_lib.data.images import class_folders, image_files
from thesis_lib.errors import InputError, nearest
from thesis_lib.system.progress import bar

# recipe -> the fewest images of a class that leave one in every part
RECIPES = {"linear-head": 4, "cosine": 2}


def split_files(files: Sequence[str], recipe: str, seed: int = 42) -> dict[str, list[str]]:
    """Split one class's sorted files as the thesis does.

    Args:
        files: at least as many as ``RECIPES[recipe]``.
        recipe: "linear-head" (70 / 15 / 15: 30 % held out, then halved into val and test) or
            "cosine" (80 / 20: train and test).
        seed: scikit-learn's ``random_state``, the same for every class.
    """
    from sklearn.model_selection import train_test_split  # takes a second to import

    if recipe == "cosine":
        train, test = train_test_split(list(files), test_size=0.2, random_state=seed)
        return {"train": train, "test": test}
    train, rest = train_test_split(list(files), test_size=0.3, random_state=seed)
    val, test = train_test_split(rest, test_size=0.5, random_state=seed)
    return {"train": train, "val": val, "test": test}


def split_dataset(
    source: Path,
    destination: Path,
    recipe: str = "linear-head",
    seed: int = 42,
    min_images: int | None = None,
    exclude: Sequence[str] = (),
    copy: bool = False,
    group_by: str | None = None,
) -> dict[str, int]:
    """Split a folder of class folders into ``destination/{train,val,test}/<class>/``.

    Files are hard links where the file system allows it and ``copy`` is not asked for, else
    copies. ``destination/manifest.csv`` lists split, class, file, bytes and sha256, and with
    ``group_by`` also group, which is empty for a file of none. The split appears whole or not at
    all: it is built beside its place and renamed.

    ``group_by`` is a regular expression that tells the group of a file, see ``group_of``: all
    images of a group go to one part, as ``split_groups`` says.

    Returns:
        The classes left out by ``min_images`` and their numbers of images.

    Raises:
        InputError: for a missing or unsuitable source, a destination that is there already,
            an unknown class to exclude, a class too small for the recipe, or groups that
            ``split_groups`` refuses.
    """
    if recipe not in RECIPES:
        raise InputError(f"recipe {recipe!r} is unknown; it is one of {', '.join(RECIPES)}")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed must be from 0 to 4294967295, not {seed}")
    check_places(source, destination)
    files, left_out = _files_by_class(source, recipe, min_images, exclude)
    if group_by is None:
        plan = {name: split_files(found, recipe, seed) for name, found in files.items()}
    else:
        plan = split_groups(files, group_by, recipe, seed)
    write_split(source, destination, plan, copy, group_by)
    return left_out


def check_places(source: Path, destination: Path) -> None:
    """Refuse a source that is no unsplit folder, and a destination in use or inside it."""
    if not source.is_dir():
        raise InputError(f"there is no folder {source}; give the folder that holds class folders")
    if (source / "train").is_dir() and ((source / "test").is_dir() or (source / "val").is_dir()):
        raise InputError(f"{source} is split already: it holds train/; give the unsplit folder")
    check_destination(destination)
    if destination.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{destination} lies inside {source}; give a place outside it")


def check_destination(destination: Path) -> None:
    """Refuse a destination that is in use."""
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(
            f"{destination} is there already and is never overwritten; "
            "give another place, or delete it yourself"
        )


def _files_by_class(
    source: Path, recipe: str, min_images: int | None, exclude: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """The images of each class to split, and the sizes of the classes left out as too small."""
    folders = class_folders(source)
    names = [folder.name for folder in folders]
    for name in exclude:
        if name not in names:
            raise InputError(f"{source} has no class {name!r} to exclude{nearest(name, names)}")
    files = {f.name: image_files(f) for f in folders if f.name not in exclude}
    if not files:
        raise InputError(f"{source} has no class folders{' left' if exclude else ''}")

    left_out = {}
    if min_images is not None:
        left_out = {name: len(found) for name, found in files.items() if len(found) < min_images}
        files = {name: found for name, found in files.items() if name not in left_out}
        if not files:
            raise InputError(f"no class of {source} has --min-images {min_images} images")
    needed = RECIPES[recipe]
    small = [f"{name!r} ({len(found)})" for name, found in files.items() if len(found) < needed]
    if small:
        raise InputError(
            f"recipe {recipe} needs at least {needed} images a class; too few in "
            f"{', '.join(small)}; leave such classes out with --min-images {needed}"
        )
    return files, left_out


def write_split(
    source: Path,
    destination: Path,
    plan: dict[str, dict[str, list[str]]],
    copy: bool,
    group_by: str | None = None,
) -> None:
    """Write ``destination`` as ``plan`` says, class -> part -> files: whole or not at all."""
    sweep_beside(destination)
    partial = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # a killed process may have had the same number
    try:
        _write_files(source, partial, plan, copy, group_by)
        if destination.exists():  # an empty folder: check_places has made sure
            destination.rmdir()
        partial.rename(destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sweep_beside(destination: Path) -> None:
    """Remove the hidden folders of killed processes that were to become ``destination``."""
    name = re.compile(rf"\.{re.escape(destination.name)}\.(\d+)(\.unpacked)?\.partial")
    for folder in destination.parent.glob(".*.partial"):
        match = name.fullmatch(folder.name)
        if match and not psutil.pid_exists(int(match[1])):
            shutil.rmtree(folder, ignore_errors=True)


def _write_files(
    source: Path,
    folder: Path,
    plan: dict[str, dict[str, list[str]]],
    copy: bool,
    group_by: str | None,
) -> None:
    folder.mkdir(parents=True)
    total = sum(len(part) for parts in plan.values() for part in parts.values())
    with (
        open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as manifest,
        bar(total=total, desc="split", unit="image") as progress,
    ):
        rows = csv.writer(manifest, lineterminator="\n")
        columns = ("split", "class", "file", "bytes", "sha256")
        rows.writerow(columns if group_by is None else (*columns, "group"))
        for name, parts in plan.items():
            for split, part in parts.items():
                for file in sorted(part):
                    target = folder / split / name / file
                    size, digest = _place(source / name / file, target, copy)
                    group = () if group_by is None else (group_of(group_by, file) or "",)
                    rows.writerow((split, name, file, size, digest, *group))
                    progress.update()


def _place(source: Path, target: Path, copy: bool) -> tuple[int, str]:
    """Link or copy one file; return its size in bytes and its sha256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()  # a link to a symbolic link would dangle when that moves
    if not copy:
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without hard links
            copy = True
    if copy:
        shutil.copy2(source, target)
    with open(target, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return target.stat().st_size, digest
