"""A data set in class folders: its classes, splits and files."""

import contextlib
import hashlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from thesis_lib.config import data_set_name
from thesis_lib.data.images import MAX_PIXELS, class_folders, image_files, read_pixels
from thesis_lib.data.sources.ecotaxa import CATEGORY
from thesis_lib.data.sources.taxonomy import Taxonomy, read_taxonomy
from thesis_lib.data.sources.text_tables import header_of, read_rows
from thesis_lib.data.splits.sizes import MAJOR_AXIS
from thesis_lib.data.splits.writer import DESCRIPTION, draw_of, kind_of
from thesis_lib.errors import InputError, first_few, nearest
from thesis_lib.system.files import read_json
from thesis_lib.system.paths import find_data, workbook_root

SPLITS = ("train", "val", "test")
GROUP = "group"  # column of manifest.csv

# Pillow warns above its limit and raises an error above twice that, before it decodes the image.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Split:
    """The images of one split (train, val or test), sorted by path.

    ``folder`` is the data set's folder and ``files`` (n) are paths relative to it; ``labels``
    (n,) are indices into the data set's ``classes``. ``crop_bottom`` rows, such as a burnt-in
    legend or scale bar, are cut off the bottom of each image.
    """

    folder: Path
    files: list[str]
    labels: np.ndarray
    crop_bottom: int = 0

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> np.ndarray:
        """Read an image as (h, w, 3) uint8, see :func:`thesis_lib.data.images.read_pixels`."""
        return read_pixels(self.folder / self.files[index], self.crop_bottom)


@dataclass(frozen=True)
class DataSet:
    """A data set ``<root>/{train,val,test}/<class>/<image>``, each split as in ImageFolder.

    ``whole`` is the complete data set if some files have been left out of this one, else None.
    """

    root: Path
    name: str
    classes: list[str]
    splits: dict[str, Split]
    whole: "DataSet | None" = None

    @property
    def crop_bottom(self) -> int:
        """Return the number of rows that are cut off the bottom of each image."""
        return self.splits["train"].crop_bottom

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of the path and size of every file, including files left out.

        It changes if a file is moved to another split or changes its size. A broken symbolic
        link counts as size -1. If rows are cut off the images, their number follows a hyphen.
        """
        if self.whole is not None:
            return self.whole.fingerprint
        digest = hashlib.sha256()
        for split in self.splits.values():
            for file in split.files:
                digest.update(f"{file}\0{_size(self.root / file)}\0".encode())
        return digest.hexdigest()[:16] + (f"-{self.crop_bottom}" if self.crop_bottom else "")

    @cached_property
    def categories(self) -> dict[str, str]:
        """Return class folder -> category in EcoTaxa, of classes that come from its exports.

        ``thesis split`` writes the categories to ``manifest.csv``. A class of several categories,
        merged by ``--classes``, has none.
        """
        found: dict[str, set[str]] = {}
        for row in self._manifest_with(CATEGORY):
            found.setdefault(row["class"], set()).add(row[CATEGORY])
        return {name: one for name, (one, *more) in found.items() if one and not more}

    @cached_property
    def major_axes(self) -> dict[str, float]:
        """Return file -> its organism's major axis in mm, where ``thesis split`` measured it."""
        return {
            f"{row['split']}/{row['class']}/{row['file']}": float(row[MAJOR_AXIS])
            for row in self._manifest_with(MAJOR_AXIS)
            if row[MAJOR_AXIS]
        }

    @cached_property
    def groups(self) -> dict[str, str]:
        """Return file -> its group, where ``thesis split`` grouped the images."""
        return {
            f"{row['split']}/{row['class']}/{row['file']}": row[GROUP]
            for row in self._manifest_with(GROUP)
            if row[GROUP]
        }

    @property
    def kind(self) -> str:
        """Return how the split was made apart from its seed, such as ``random``."""
        return kind_of(described(self.root))

    @property
    def draw(self) -> str:
        """Return which of all splits of its kind it is, such as ``seed 1`` or ``fold 2``."""
        return draw_of(described(self.root))

    @cached_property
    def taxonomy(self) -> Taxonomy | None:
        """Return the place of each class in a tree of taxa, if the data set has one."""
        return read_taxonomy(self.root, self.classes)

    def _manifest_with(self, column: str) -> Iterator[dict[str, str]]:
        """Yield the rows of ``manifest.csv``, if there is one and it has this column."""
        manifest = self.root / "manifest.csv"
        if manifest.is_file() and column in header_of(manifest):
            yield from (row for _, row in read_rows(manifest, ("split", "class", "file")))

    def read(self, file: str) -> np.ndarray:
        """Read one of the files as (h, w, 3) uint8, without the rows that are cut off."""
        return read_pixels(self.root / file, self.crop_bottom)

    def without(self, files: Iterable[str]) -> "DataSet":
        """Return this data set without some of its files; the fingerprint stays the same."""
        left_out, splits = set(files), {}
        for name, split in self.splits.items():
            kept = [i for i, file in enumerate(split.files) if file not in left_out]
            files_kept = [split.files[i] for i in kept]
            splits[name] = replace(split, files=files_kept, labels=split.labels[kept])
        return replace(self, splits=splits, whole=self.whole or self)

    def left_out(self, split: str) -> list[str]:
        """Return the files of a split that :meth:`without` has left out."""
        if self.whole is None:
            return []
        kept = set(self.splits[split].files)
        return [file for file in self.whole.splits[split].files if file not in kept]

    def counts(self) -> pd.DataFrame:
        """Return the number of images per class (index) and split (columns)."""
        columns = {
            name: np.bincount(split.labels, minlength=len(self.classes))
            for name, split in self.splits.items()
        }
        return pd.DataFrame(columns, index=pd.Index(self.classes, name="class"))


def open_dataset(
    data: str, needs: tuple[str, ...] = ("train",), crop_bottom: int | None = None
) -> DataSet:
    """Open a data set and check its folders.

    Args:
        data: its folder, relative to the working directory or to the workbook's root.
        needs: the splits that must exist and contain images.
        crop_bottom: rows to cut off the bottom of each image; by default as its
            ``dataset.json`` says, or none.

    Raises:
        InputError: if a folder or split is missing, a needed split or a training class has no
            images, a class is missing in train/, there are fewer than two classes, or a name has
            control characters or bytes that are not UTF-8.
    """
    root = find_data(data)
    if not root.is_dir():
        known = [folder.name for folder in (workbook_root() / "data").glob("*")]
        raise InputError(
            f"there is no data folder {data}{nearest(root.name, known)}; `thesis split` makes one "
            "from class folders, and `thesis demo` makes data/digits"
        )
    for name in dict.fromkeys(("train", *needs)):
        if not (root / name).is_dir():
            raise InputError(f"{data} has no {name}/ folder; `thesis split` makes train/val/test")
    classes = [folder.name for folder in class_folders(root / "train")]
    if len(classes) < 2:
        raise InputError(f"{data}/train has {len(classes)} class folders; at least 2 are needed")
    cut = described(root).get("crop_bottom", 0) if crop_bottom is None else crop_bottom
    splits = {
        name: _open_split(root, name, classes, cut) for name in SPLITS if (root / name).is_dir()
    }
    for name in needs:
        if not len(splits[name]):
            raise InputError(f"{data}/{name} has no images")
    counts = np.bincount(splits["train"].labels, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        raise InputError(f"{data}/train has classes with no images: {', '.join(map(repr, empty))}")
    return DataSet(root, data_set_name(data), classes, splits)


def open_splits(datas: Sequence[str], crop_bottom: int | None = None) -> list[DataSet]:
    """Open data sets that are splits of the same images.

    Args:
        datas: their folders.
        crop_bottom: see :func:`open_dataset`.

    Raises:
        InputError: see :func:`open_dataset`; also if their classes differ.
    """
    first, *others = (open_dataset(data, ("train", "test"), crop_bottom) for data in datas)
    for other in others:
        if differing := set(first.classes) ^ set(other.classes):
            raise InputError(
                f"{first.name} and {other.name} are not splits of the same images: only one of "
                f"them has {first_few(sorted(differing))}; split them with the same --exclude and "
                "--min-images"
            )
    return [first, *others]


def described(root: Path) -> dict[str, Any]:
    """Return what ``thesis split`` has written to a data set's ``dataset.json``; {} without it.

    Raises:
        InputError: if the file cannot be read or its ``crop_bottom`` is not a number of rows.
    """
    file = root / DESCRIPTION
    if not file.is_file():
        return {}
    found = read_json(file)
    rows = found.get("crop_bottom", 0) if isinstance(found, dict) else None
    if type(rows) is not int or rows < 0:
        raise InputError(f"{file}: crop_bottom must be a number of rows, 0 or more; correct it")
    return found


def _open_split(root: Path, name: str, classes: list[str], crop_bottom: int) -> Split:
    files, labels = [], []
    for folder in class_folders(root / name):
        if folder.name not in classes:
            raise InputError(
                f"{root / name} has a class {folder.name!r} that is missing in {root / 'train'}; "
                "remove it, or split the data again with `thesis split`"
            )
        found = image_files(folder)
        files += [f"{name}/{folder.name}/{file}" for file in found]
        labels += [classes.index(folder.name)] * len(found)
    return Split(root, files, np.array(labels, dtype=np.int64), crop_bottom)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        if file.is_symlink():
            return -1
        raise


def sample_images(dataset: DataSet, num_images: int, seed: int = 42) -> dict[str, list[np.ndarray]]:
    """Draw random training images of each class; images that cannot be read are left out.

    Args:
        dataset: the data set.
        num_images: largest number of images per class.
        seed: random seed.

    Returns:
        class name -> list of (h, w, 3) uint8 arrays.
    """
    random = np.random.default_rng(seed)
    train = dataset.splits["train"]
    samples: dict[str, list[np.ndarray]] = {}
    for label, name in enumerate(dataset.classes):
        members = np.flatnonzero(train.labels == label)
        chosen = random.choice(members, min(num_images, len(members)), replace=False)
        samples[name] = []
        for index in sorted(chosen):
            with contextlib.suppress(InputError):  # the statistics list unreadable images
                samples[name].append(train.read(index))
    return samples
