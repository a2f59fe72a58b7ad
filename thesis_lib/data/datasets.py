"""A data set in class folders: its files, and its images as RGB."""

import contextlib
import hashlib
import os
import struct
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_jpeg

from thesis_lib.config import InputError, data_set_name
from thesis_lib.data.splits import class_folders, image_files
from thesis_lib.runs.directory import find_data

SPLITS = ("train", "val", "test")
# Pillow would try others as well, and run PostScript where Ghostscript is installed. MPO is a JPEG.
FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "BMP", "PPM", "WEBP")
MAX_PIXELS = 100_000_000  # of one image; a file of a few kB can claim to have any number
# Pillow warns above its limit and refuses above twice that, before it decodes.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# What Pillow raises on bytes that are not what they seem.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError),
    *(struct.error, Image.DecompressionBombError),
)


MP_ENTRY = 0xB002  # of an MPO's index: what is told of each of its pictures


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
    """A folder ``<root>/{train,val,test}/<class>/<image>``, as torchvision's ImageFolder.

    ``whole`` is the data set that this one lacks some files of, None where it lacks none.
    """

    root: Path
    name: str
    classes: list[str]
    splits: dict[str, Split]
    whole: "DataSet | None" = None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every file's path and size, also of those left out.

        Another split or another size changes it; a link to nothing has size -1.
        """
        if self.whole is not None:
            return self.whole.fingerprint
        digest = hashlib.sha256()
        for split in self.splits.values():
            for file in split.files:
                digest.update(f"{file}\0{_size(self.root / file)}\0".encode())
        return digest.hexdigest()[:16]

    def without(self, files: Iterable[str]) -> "DataSet":
        """The same data set, also by its fingerprint, but for some of its files."""
        left_out, splits = set(files), {}
        for name, split in self.splits.items():
            kept = [i for i, file in enumerate(split.files) if file not in left_out]
            files_kept = [split.files[i] for i in kept]
            splits[name] = replace(split, files=files_kept, labels=split.labels[kept])
        return replace(self, splits=splits, whole=self.whole or self)

    def left_out(self, split: str) -> list[str]:
        """The files of a split that :meth:`without` has taken out."""
        if self.whole is None:
            return []
        kept = set(self.splits[split].files)
        return [file for file in self.whole.splits[split].files if file not in kept]

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
            train/ lacks, a single class, or a name with control characters or bytes that are
            not UTF-8.
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


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        if file.is_symlink():
            return -1
        raise


def read_pixels(path: Path) -> np.ndarray:
    """Read an image as (h, w, 3) uint8, turned upright as its EXIF says.

    Grey is repeated, 16 bits are scaled, CMYK and palettes become RGB, alpha is dropped. Pillow
    tells what the file is. A JPEG is decoded by torchvision, to the same bits in little over half
    the time; anything else, and a JPEG that torchvision refuses, by Pillow. A file is refused
    rather than read wrongly; but bytes that were changed in place show in a PNG alone, since the
    other kinds have no checksums; nor does a half that was filled up with zeros in a BMP, PPM,
    TIFF or WEBP, or in a JPEG that was given an end again.

    Raises:
        InputError: for a file that cannot be read, is cut short, has more than one frame or more
            than ``MAX_PIXELS``, or values that 8 and 16 bits do not hold.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_frames(image)
            if image.format == "PNG":
                _check_png(path)
            if image.format == "MPO":
                _check_jpeg(image, path.read_bytes()[: image.mpinfo[MP_ENTRY][0]["Size"]])
            if image.format == "JPEG":
                content = path.read_bytes()
                _check_jpeg(image, content)
                upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
                if upright and image.mode in ("RGB", "L"):
                    with contextlib.suppress(RuntimeError):
                        file = torch.frombuffer(bytearray(content), dtype=torch.uint8)
                        return decode_jpeg(file, ImageReadMode.RGB).permute(1, 2, 0).numpy()
            ImageOps.exif_transpose(image, in_place=True)
            image.info.pop("transparency", None)  # convert() drops it as well, but warns
            return np.asarray(_to_8_bits(image).convert("RGB"))
    except UNREADABLE as error:
        raise InputError(
            f"cannot read the image {str(path)!r}: {_reason(path, error)}; replace or remove it"
        ) from None


def _check_frames(image: Image.Image) -> None:
    # The further pictures of a camera's MPO are smaller or other views of its first.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"it has {frames} frames, a picture has one")


def _check_png(path: Path) -> None:
    with Image.open(
        path, formats=FORMATS
    ) as image:  # of its own, since none can be decoded after verify()
        image.verify()  # the checksums, which decoding passes over


def _check_jpeg(image: Image.Image, content: bytes) -> None:
    """Refuse what decoders would pass over: missing data, and CMYK of unknown sense."""
    # A copy that was broken off can end in zeros, which decode to grey. Pillow has read up to
    # the data; before them the end of a thumbnail would be found.
    if content.rfind(b"\xff\xd9", image.fp.tell()) < 0:
        raise ValueError("its data have no end, it is cut short")
    if image.mode == "CMYK" and "adobe" not in image.info:
        raise ValueError("its CMYK may be ink or light, it does not say which")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey, which ``convert`` would clip at 255; refuse what has no known range."""
    if image.mode == "F":
        raise ValueError("its values are no whole numbers and have no known range")
    if not image.mode.startswith("I"):
        return image
    tiff = getattr(image, "tag_v2", {})
    bits = tiff.get(ExifTags.Base.BitsPerSample)
    if bits in ((12,), (32,)):
        raise ValueError(f"it has {bits[0]} bits a pixel; 8 and 16 can be read")
    if tiff.get(ExifTags.Base.PhotometricInterpretation) == 0:
        raise ValueError("its 0 is white, which can be read with 8 bits a pixel alone")
    values = np.asarray(image)
    if values.min() < 0:
        raise ValueError(f"its values begin at {values.min()}, below black")
    return Image.fromarray((values / 257).round().astype(np.uint8))


def _reason(path: Path, error: Exception) -> str:
    if path.is_symlink() and not path.exists():
        return f"it is a link to {os.readlink(path)!r}, which is not there"
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a known kind" if path.stat().st_size else "it is empty"
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error).split("\n")[0] or type(error).__name__


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
