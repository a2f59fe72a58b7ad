"""Split class folders into train, val and test by one of the thesis's two recipes."""

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

# recipe -> the smallest number of images per class that gives every split at least one
RECIPES = {"linear-head": 4, "cosine": 2}


def split_files(files: Sequence[str], recipe: str, seed: int = 42) -> dict[str, list[str]]:
    """Split the files of one class as in the thesis.

    Args:
        files: the sorted files of the class, at least ``RECIPES[recipe]`` of them.
        recipe: "linear-head" (70 / 15 / 15: 30 % held out, then halved into val and test) or
            "cosine" (80 / 20: train and test).
        seed: scikit-learn's ``random_state``, the same for every class.

    Returns:
        split -> files.
    """
    from sklearn.model_selection import train_test_split  # takes a second to import

    if recipe == "cosine":
        train, test = train_test_split(list(files), test_size=0.2, random_state=seed)
        return {"train": train, "test": test}
    train, rest = train_test_split(list(files), test_size=0.3, random_state=seed)
    val, test = train_test_split(rest, test_size=0.5, random_state=seed)
    return {"train": train, "val": val, "test": test}


def split_dataset(  # noqa: PLR0913 - the options of `thesis split`
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

    ``destination/manifest.csv`` lists split, class, file, bytes and sha256, and with ``group_by``
    also group (empty for a file without a group). The split is built in a temporary folder beside
    ``destination`` and then renamed, so it is either complete or absent.

    Args:
        source: the folder that contains the class folders.
        destination: the new folder of the split.
        recipe: a key of ``RECIPES``, see ``split_files``.
        seed: random seed, from 0 to 2^32 - 1.
        min_images: leave out classes with fewer images than this.
        exclude: names of classes to leave out.
        copy: copy the files; otherwise they are hard-linked where the file system allows it.
        group_by: a regular expression that gives the group of a file, see ``group_of``. All
            images of a group go to the same split, see ``split_groups``.

    Returns:
        The classes left out by ``min_images``: class -> number of images.

    Raises:
        InputError: if the source is missing or unsuitable, the destination already exists, a class
            to exclude is unknown, a class is too small for the recipe, or ``split_groups`` cannot
            split the groups.
    """
    if recipe not in RECIPES:
        raise InputError(f"recipe {recipe!r} is unknown; choose one of {', '.join(RECIPES)}")
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
    """Check that the source is an unsplit folder, and the destination is unused and outside it.

    Raises:
        InputError: otherwise.
    """
    if not source.is_dir():
        raise InputError(
            f"there is no folder {source}; give the folder that contains the class folders"
        )
    if (source / "train").is_dir() and ((source / "test").is_dir() or (source / "val").is_dir()):
        raise InputError(
            f"{source} is already split: it contains train/; give the folder of the unsplit data"
        )
    check_destination(destination)
    if destination.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{destination} is inside {source}; choose a destination outside it")


def check_destination(destination: Path) -> None:
    """Raise an InputError if the destination is a file or a folder that is not empty."""
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(
            f"{destination} already exists and is never overwritten; "
            "choose another destination, or delete it yourself"
        )


def _files_by_class(
    source: Path, recipe: str, min_images: int | None, exclude: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Return the images of each class to split, and the sizes of the classes that are too small."""
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
            raise InputError(
                f"--min-images {min_images} leaves no class of {source}; their images: "
                f"{', '.join(f'{name!r} {n:,}' for name, n in left_out.items())}"
            )
    needed = RECIPES[recipe]
    small = [f"{name!r} ({len(found)})" for name, found in files.items() if len(found) < needed]
    if small:
        raise InputError(
            f"recipe {recipe} needs at least {needed} images per class; too few in "
            f"{', '.join(small)}; leave out these classes with --min-images {needed}"
        )
    return files, left_out


def write_split(
    source: Path,
    destination: Path,
    plan: dict[str, dict[str, list[str]]],
    copy: bool,
    group_by: str | None = None,
) -> None:
    """Write a split to ``destination``, completely or not at all; plan: class -> split -> files."""
    sweep_beside(destination)
    partial = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process with the same id
    try:
        _write_files(source, partial, plan, copy, group_by)
        if destination.exists():  # an empty folder, as check_places has checked
            destination.rmdir()
        partial.rename(destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sweep_beside(destination: Path) -> None:
    """Remove the temporary folders that killed processes have left beside ``destination``."""
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
    total = sum(len(files) for splits in plan.values() for files in splits.values())
    with (
        open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as manifest,
        bar(total=total, desc="split", unit="image") as progress,
    ):
        rows = csv.writer(manifest, lineterminator="\n")
        columns = ("split", "class", "file", "bytes", "sha256")
        rows.writerow(columns if group_by is None else (*columns, "group"))
        for name, splits in plan.items():
            for split, files in splits.items():
                for file in sorted(files):
                    target = folder / split / name / file
                    size, digest = _place(source / name / file, target, copy)
                    group = () if group_by is None else (group_of(group_by, file) or "",)
                    rows.writerow((split, name, file, size, digest, *group))
                    progress.update()


def _place(source: Path, target: Path, copy: bool) -> tuple[int, str]:
    """Link or copy one file; return its size in bytes and its sha256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()  # a hard link to a symbolic link would break if its target moves
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
