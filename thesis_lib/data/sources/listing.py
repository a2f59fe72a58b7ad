"""What a reader found in a source: the images by class, and what was left out and why."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thesis_lib.data.images import check_names, image_name, is_system
from thesis_lib.data.sources.text_tables import is_table
from thesis_lib.errors import InputError, first_few


@dataclass
class Listing:
    """The images of a source by class.

    Args:
        format: one of :data:`thesis_lib.data.sources.FORMATS`.
        words: the format in words, such as "EcoTaxa export (1 table)".
        root: the folder that was read.
        files: class -> file (its path below the class folder of the split) -> its path on disk.
        facts: (class, file) -> column -> text, what else is known about the images; these columns
            are added to ``manifest.csv``.
        left_out: reason -> number of files that were not taken.
        is_split: whether the source is split already, as its facts say.
        options: how the source was read, for ``dataset.json``.
    """

    format: str
    words: str
    root: Path
    files: dict[str, dict[str, Path]]
    facts: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    is_split: bool = False
    options: dict[str, Any] = field(default_factory=dict)

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
        lines = [f"{self.root}: {self.words}; {images:,} images of {len(self.files)} classes"]
        reasons = [item for item in self.left_out.most_common() if item[1]]
        return lines + [f"left out: {reason}: {number:,}" for reason, number in reasons]


def walk(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Yield all files in a folder at any depth, sorted; follow links, but yield nothing twice.

    Hidden files, files that operating systems leave behind, and links to folders and files that
    are counted themselves are counted in ``left_out``.

    Raises:
        InputError: if a folder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise InputError(f"cannot read the folder {error.filename}: {error.strerror}") from None

    entered, files = set(), []
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
                files.append(Path(parent, name))
    yield from _without_links(files, left_out)


def _without_links(files: Sequence[Path], left_out: Counter[str]) -> Iterator[Path]:
    """Yield the files without links to other ones of them; a broken link is yielded, too."""
    linked = {path for path in files if path.is_symlink() and path.exists()}
    taken = {path.resolve() for path in files if path not in linked} if linked else set()
    for path in files:
        if path in linked:
            if (target := path.resolve()) in taken:
                left_out["links to files that are counted already"] += 1
                continue
            taken.add(target)
        yield path


def tables_in(folder: Path) -> list[Path]:
    """Return the tables in a folder at any depth, sorted."""
    return [path for path in walk(folder, Counter()) if is_table(path.name)]


class NamedImages:
    """Collect the images that the rows of tables name: one row for each image.

    Args:
        label: the column of the label.
        left_out: counts repeated rows.
    """

    def __init__(self, label: str, left_out: Counter[str]) -> None:
        self.label, self.left_out = label, left_out
        self.rows: dict[Path, dict[str, str]] = {}
        self.missing: list[str] = []

    def add(self, path: Path, row: dict[str, str], where: str) -> None:
        """Add the row of an image.

        Args:
            path: the image.
            row: column -> value.
            where: table, line and image, for the message.

        Raises:
            InputError: if another row gives the image another label.
        """
        path = _on_disk(path)
        if path not in self.rows:
            if path.is_file():
                self.rows[path] = row
            else:
                self.missing.append(str(path))
        elif (label := self.rows[path][self.label]) != row[self.label]:
            raise InputError(
                f"{where} has the label {row[self.label]!r}, but another row gives {label!r}; "
                "correct one of them"
            )
        else:
            self.left_out["rows that name an image again"] += 1

    def found(self, source: Path, advice: str) -> dict[Path, dict[str, str]]:
        """Return image -> its row.

        Args:
            source: where the tables are, for the message.
            advice: what to do about images that do not exist.

        Raises:
            InputError: if images do not exist.
        """
        if self.missing:
            raise InputError(
                f"{len(self.missing):,} of the images that the rows of {source} name do not "
                f"exist: {first_few(self.missing)}; {advice}"
            )
        return self.rows


def _on_disk(path: Path) -> Path:
    """Return the spelling of a path that exists: é may be one character or two on disk."""
    if str(path).isascii() or path.exists():
        return path
    spellings = (Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))
    return next((spelled for spelled in spellings if spelled.exists()), path)


def no_image(name: str) -> str:
    """Return why a file that is not an image is left out: its suffix."""
    suffix = os.path.splitext(name)[1].lower()
    return f"files with the suffix {suffix}" if suffix else "files without a suffix"


def class_names(source: Path, labels: Iterable[str]) -> dict[str, str]:
    """Return label -> the name of its class folder; ``egg<other`` becomes ``egg_other``.

    Raises:
        InputError: if two labels would share a folder, or a name cannot be written to a table.
    """
    folders: dict[str, str] = {}
    for label in sorted(labels):
        folders[label] = folder_of(label)
    check_distinct(source, folders)
    check_names(source, folders.values())
    return folders


def folder_of(label: str) -> str:
    """Return the name of a label's class folder, without characters that folders cannot have."""
    folder = re.sub(r'[<>:"/\\|?*]', "_", label).strip().rstrip(".")
    return f"_{folder}" if is_system(folder) or not folder else folder


def check_distinct(source: Path, folders: Mapping[str, str]) -> None:
    """Check that class folders differ by more than Unicode form, case and spaces around them.

    Args:
        source: where they come from, for the message.
        folders: label -> folder.

    Raises:
        InputError: naming the labels of two folders that do not.
    """
    taken: dict[str, str] = {}
    for label, folder in folders.items():
        key = unicodedata.normalize("NFC", folder).casefold().strip()
        if key in taken:
            raise InputError(
                f"the classes {taken[key]!r} and {label!r} of {source} would share the folder "
                f"{folder!r} on some disks; rename one of them, or merge them with --classes"
            )
        taken[key] = label


def file_names(root: Path, paths: Sequence[Path]) -> Iterator[str]:
    """Yield each image's name below its class folder: its own, or its path if it is not unique.

    A name without a suffix gets that of the image that the file contains.
    """
    names = [image_name(path) for path in paths]
    times = Counter(name.casefold() for name in names)
    for path, name in zip(paths, names, strict=True):
        if times[name.casefold()] == 1:
            yield name
        else:
            whole, base = (Path(os.path.abspath(place)) for place in (path, root))
            inside = whole.relative_to(base) if whole.is_relative_to(base) else whole
            yield inside.relative_to(inside.anchor).with_name(name).as_posix()
