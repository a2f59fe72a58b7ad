"""Write a split as folders of linked or copied images with a manifest, completely or not at all."""

import csv
import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from thesis_lib.data.sources.listing import Listing
from thesis_lib.data.sources.text_tables import is_table
from thesis_lib.data.splits.grouping import Grouping
from thesis_lib.errors import InputError
from thesis_lib.system.files import write_json
from thesis_lib.system.progress import bar


def check_places(source: Path, destination: Path) -> None:
    """Check that the source is a folder or a table, and the destination is unused and outside it.

    Raises:
        InputError: otherwise.
    """
    if not source.is_dir() and not (source.is_file() and is_table(source.name)):
        raise InputError(
            f"there is no folder {source}; give the folder that contains the class folders"
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


DESCRIPTION = "dataset.json"  # how a data set was split, and what holds for all its images


@dataclass(frozen=True)
class Plan:
    """What a split is to hold.

    Args:
        files: class -> split -> files.
        description: what ``dataset.json`` says about the split, besides the source's format.
        grouping: how images were grouped, or None; its groups are added to ``manifest.csv``.
    """

    files: dict[str, dict[str, list[str]]]
    description: dict[str, Any]
    grouping: Grouping | None = None


def write_split(listing: Listing, destination: Path, plan: Plan, copy: bool) -> None:
    """Write a split to ``destination``, completely or not at all; copy or link the images."""
    sweep_beside(destination)
    partial = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process with the same id
    try:
        _write_files(listing, partial, plan, copy)
        described = {"format": listing.format, **listing.options, **plan.description}
        described["left_out"] = {reason: n for reason, n in listing.left_out.items() if n}
        write_json(partial / DESCRIPTION, described)
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


def _write_files(listing: Listing, folder: Path, plan: Plan, copy: bool) -> None:
    folder.mkdir(parents=True)
    total = sum(len(files) for splits in plan.files.values() for files in splits.values())
    grouping = plan.grouping
    own = {"split", "class", "file", "bytes", "sha256", *(("group",) if grouping else ())}
    known = [name for name in listing.columns if name not in own]
    with (
        open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as manifest,
        bar(total=total, desc="split", unit="image") as progress,
    ):
        rows = csv.writer(manifest, lineterminator="\n")
        columns = ["split", "class", "file", "bytes", "sha256", *known]
        rows.writerow(columns if grouping is None else [*columns, "group"])
        for name, splits in plan.files.items():
            for split, files in splits.items():
                for file in sorted(files):
                    placed = _place(listing.files[name][file], folder / split / name / file, copy)
                    facts = listing.facts.get((name, file), {})
                    group = [] if grouping is None else [grouping.of(name, file) or ""]
                    row = [split, name, file, *placed, *(facts.get(k, "") for k in known), *group]
                    rows.writerow(row)
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


def kind_of(described: dict[str, Any]) -> str:
    """Return how a split was made apart from its seed, such as ``random``, from dataset.json."""
    folds = f"{described['folds']} folds" if described.get("folds") else ""
    if described.get("test_group"):
        return f"{', '.join(described['test_group'])} held out"
    if by := described.get("group_by_column") or described.get("group_by"):
        return f"{folds} grouped by {by}".strip()
    if described.get("as_published"):
        return "as published"
    return folds or ("random" if "seed" in described else "made elsewhere")


def draw_of(described: dict[str, Any]) -> str:
    """Return which of all splits of its kind a split is, such as ``seed 1`` or ``fold 2``."""
    if described.get("folds"):
        return f"fold {described['fold']}"
    return f"seed {described['seed']}" if "seed" in described else "one"
