"""A data set in class folders: its files, and its images as RGB."""

import contextlib
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from thesis_lib.config import InputError, data_set_name
from thesis_lib.runs import find_data
from thesis_lib.splits import class_folders, image_files

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """The images of one part of a data set, in the order of their paths.

    ``files`` are relative to the data set's folder, ``labels`` (n,) index its ``classes``.
    """

    folder: Path
    files: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True)
class DataSet:
    """A folder ``<root>/{train,val,test}/<class>/<image>``, as torchvision's ImageFolder."""

    root: Path
    name: str
    classes: list[str]
    splits: dict[str, Split]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every file's path and size: another split or another size changes it."""
        digest = hashlib.sha256()
        for split in self.splits.values():
            for file in split.files:
                digest.update(f"{file}\0{(self.root / file).stat().st_size}\0".encode())
        return digest.hexdigest()[:16]

    def counts(self) -> pd.DataFrame:
        """Images per class (index) and split (columns)."""
        columns = {
            name: np.bincount(split.labels, minlength=len(self.classes))
            for name, split in self.splits.items()
        }
        return pd.DataFrame(columns, index=pd.Index(self.classes, name="class"))


def open_dataset(data: str, needs: tuple[str, ...] = ("train",)) -> DataSet:
    """Open a data set and check its folders.

    Args:
        data: its folder, from the working directory or from the workbook's root.
        needs: the splits that must be there.

    Raises:
        InputError: for a missing folder or split, a class without images, a class that
            train/ lacks, or a single class.
    """
    root = find_data(data)
    if not root.is_dir():
        raise InputError(
            f"there is no data folder {data}; `thesis split` makes one from class folders, "
            "`thesis demo` makes data/digits"
        )
    for name in dict.fromkeys(("train", *needs)):
        if not (root / name).is_dir():
            raise InputError(f"{data} has no {name}/ folder; `thesis split` makes train/val/test")
    classes = [folder.name for folder in class_folders(root / "train")]
    if len(classes) < 2:
        raise InputError(f"{data}/train has {len(classes)} class folders; it takes two or more")
    splits = {name: _open_split(root, name, classes) for name in SPLITS if (root / name).is_dir()}
    for name in needs:
        if not len(splits[name]):
            raise InputError(f"{data}/{name} has no images")
    counts = np.bincount(splits["train"].labels, minlength=len(classes))
    empty = [name for name, images in zip(classes, counts, strict=True) if not images]
    if empty:
        raise InputError(f"{data}/train has classes with no images: {', '.join(map(repr, empty))}")
    return DataSet(root, data_set_name(data), classes, splits)


def _open_split(root: Path, name: str, classes: list[str]) -> Split:
    files, labels = [], []
    for folder in class_folders(root / name):
        if folder.name not in classes:
            raise InputError(
                f"{root / name} has a class {folder.name!r} that {root / 'train'} lacks; "
                "remove it, or split again with `thesis split`"
            )
        found = image_files(folder)
        files += [f"{name}/{folder.name}/{file}" for file in found]
        labels += [classes.index(folder.name)] * len(found)
    return Split(root, files, np.array(labels, dtype=np.int64))


def read_pixels(path: Path) -> np.ndarray:
    """Read an image as (h, w, 3) uint8; grey is repeated, 16 bits are scaled, alpha is dropped.

    Pillow tells what the file is. A JPEG is decoded by torchvision, to the same bits in little
    over half the time; anything else, and a JPEG that torchvision refuses, by Pillow.

    Raises:
        InputError: for a file that cannot be read or is cut short.
    """
    try:
        with Image.open(path) as image:
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                with contextlib.suppress(RuntimeError):
                    file = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
                    return decode_jpeg(file, ImageReadMode.RGB).permute(1, 2, 0).numpy()
            image.load()
            if image.mode.startswith("I"):  # convert() would clip 16 bits at 255
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise InputError(f"cannot read the image {path}: {reason}; replace or remove it") from None


def sample_images(dataset: DataSet, images: int, seed: int = 42) -> dict[str, list[np.ndarray]]:
    """A few random training images of each class that can be read, (h, w, 3) uint8 each."""
    random = np.random.default_rng(seed)
    train = dataset.splits["train"]
    samples = {}
    for label, name in enumerate(dataset.classes):
        members = np.flatnonzero(train.labels == label)
        chosen = random.choice(members, min(images, len(members)), replace=False)
        paths = (train.folder / train.files[i] for i in sorted(chosen))
        samples[name] = []
        for path in paths:
            with contextlib.suppress(InputError):  # the statistics list what cannot be read
                samples[name].append(read_pixels(path))
    return samples
