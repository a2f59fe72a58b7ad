"""What a reader found in a source: the images by class, and what was left out and why."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from thesis_lib.data.images import is_system
from thesis_lib.errors import InputError


@dataclass
class Listing:
    """The images of a source by class.

    Args:
        format: the name of the format, such as "class folders".
        root: the folder that was read.
        files: class -> file (its path below the class folder of the split) -> its path on disk.
        facts: (class, file) -> column -> text, what else is known about the images; these columns
            are added to ``manifest.csv``.
        left_out: reason -> number of files that were not taken.
        is_split: whether the source is split already, as its facts say.
    """

    format: str
    root: Path
    files: dict[str, dict[str, Path]]
    facts: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    is_split: bool = False

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns of ``facts``."""
        return list(dict.fromkeys(name for facts in self.facts.values() for name in facts))

    @property
    def images_share_objects(self) -> bool:
        """Return whether several images show the same object, so that they belong together."""
        objects = [facts.get("object_id", "") for facts in self.facts.values()]
        return len(set(objects)) < len(objects) and all(objects)

    def describe(self) -> list[str]:
        """Describe what was recognised and what was left out, in lines of text."""
        images = sum(map(len, self.files.values()))
        lines = [f"{self.root}: {self.format}; {images:,} images of {len(self.files)} classes"]
        reasons = [item for item in self.left_out.most_common() if item[1]]
        return lines + [f"left out: {reason}: {number:,}" for reason, number in reasons]


def walk(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Yield all files in a folder at any depth, sorted; follow links, but enter no folder twice.

    Hidden files and files that operating systems leave behind are counted in ``left_out``.

    Raises:
        InputError: if a folder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise InputError(f"cannot read the folder {error.filename}: {error.strerror}") from None

    entered = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True, onerror=stop):
        identity = os.stat(parent).st_dev, os.stat(parent).st_ino
        if identity in entered:
            left_out["folders that were counted already, below links to them"] += 1
            subfolders.clear()
            continue
        entered.add(identity)
        left_out["hidden or system folders"] += sum(map(is_system, subfolders))
        subfolders[:] = sorted(name for name in subfolders if not is_system(name))
        for name in sorted(names):
            if is_system(name):
                left_out["hidden or system files"] += 1
            else:
                yield Path(parent, name)
