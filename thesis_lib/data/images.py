"""Image files: find them, and read their pixels as 8-bit RGB."""

import contextlib
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from thesis_lib.errors import InputError

IMAGE_SUFFIXES = frozenset(
    (
        *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"),
        *(".tif", ".tiff", ".webp"),
    )
)
# Names of files and folders that operating systems, network drives and Jupyter leave behind. Those
# that begin with a dot, such as .DS_Store and ._photo.jpg, are hidden.
SYSTEM_NAMES = frozenset(
    (
        *("__macosx", "@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin"),
        *("system volume information", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    )
)
# Control characters, line separators, and the surrogates by which Python represents bytes in file
# names that are not UTF-8.
UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

# Otherwise Pillow would try all its formats, and even run PostScript where Ghostscript is
# installed. "JPEG" includes MPO.
FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "BMP", "PPM", "WEBP")


MAX_PIXELS = 100_000_000  # per image; even a file of a few kB can claim a huge size


# The errors that Pillow raises for damaged or mislabelled files.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError),
    *(struct.error, Image.DecompressionBombError),
)


MP_ENTRY = 0xB002  # the tag of an MPO's index that describes each of its pictures


def read_pixels(path: Path, crop_bottom: int = 0) -> np.ndarray:
    """Read an image as (h, w, 3) uint8 RGB, rotated upright according to its EXIF orientation.

    ``crop_bottom`` rows are cut off at the bottom.

    Grey images are repeated over three channels, 16-bit values are scaled to 8 bits, CMYK and
    palette images are converted to RGB, and alpha is dropped. Pillow detects the format.
    torchvision decodes JPEG files, with identical results in little more than half the time;
    Pillow decodes all other files, and JPEG files that torchvision cannot decode.

    A damaged file raises an error instead of returning wrong pixels, with two exceptions. Changed
    bytes are detected only in PNG, because the other formats have no checksums. A missing half
    that has been filled with zeros is not detected in BMP, PPM, TIFF and WEBP, nor in a JPEG to
    which an end marker has been added.

    Raises:
        InputError: if the file cannot be read, is cut short, has more than one frame or more than
            ``MAX_PIXELS`` pixels, its values do not fit 8 or 16 bits, or no row would be left.
    """
    pixels = _decode(path)
    if crop_bottom >= len(pixels):
        raise InputError(
            f"cannot read the image {str(path)!r}: it has {len(pixels)} rows, and crop_bottom = "
            f"{crop_bottom} cuts off all of them; lower crop_bottom, or remove the image"
        )
    return pixels[: len(pixels) - crop_bottom]


def image_height(path: Path) -> int | None:
    """Return an image's number of rows when it is upright; None if the file cannot be read."""
    with contextlib.suppress(*UNREADABLE), Image.open(path, formats=FORMATS) as image:
        sideways = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.width if sideways else image.height
    return None


def _decode(path: Path) -> np.ndarray:
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_frames(image)
            if image.format == "PNG":
                _check_png(path)
            if image.format == "MPO":
                _check_jpeg(
                    image, path.read_bytes()[: cast(Any, image).mpinfo[MP_ENTRY][0]["Size"]]
                )
            if image.format == "JPEG":
                content = path.read_bytes()
                _check_jpeg(image, content)
                upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
                if upright and image.mode in ("RGB", "L"):
                    with contextlib.suppress(RuntimeError):
                        return _decode_jpeg(content)
            ImageOps.exif_transpose(image, in_place=True)
            image.info.pop("transparency", None)  # convert() would also drop it, with a warning
            return np.asarray(_to_8_bits(image).convert("RGB"))
    except UNREADABLE as error:
        raise InputError(
            f"cannot read the image {str(path)!r}: {_reason(path, error)}; replace or remove it"
        ) from None


def _decode_jpeg(content: bytes) -> np.ndarray:
    # Imported here, because torchvision takes seconds to load, and `thesis split` decodes nothing.
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    file = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return decode_jpeg(file, ImageReadMode.RGB).permute(1, 2, 0).numpy()


def _check_frames(image: Image.Image) -> None:
    # The other pictures in a camera's MPO file are smaller versions or other views of the first.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"it has {frames} frames, but an image must have exactly one")


def _check_png(path: Path) -> None:
    # Opened again, because an image cannot be decoded after verify().
    with Image.open(path, formats=FORMATS) as image:
        image.verify()  # checks the checksums, which decoding ignores


def _check_jpeg(image: Image.Image, content: bytes) -> None:
    """Raise a ValueError for missing data and ambiguous CMYK, which decoders accept silently."""
    # An interrupted copy can end in zeros, which decode as grey. Pillow has read up to the image
    # data; searching from there skips the end marker of an embedded thumbnail.
    if content.rfind(b"\xff\xd9", cast(Any, image).fp.tell()) < 0:
        raise ValueError("its data has no end marker, so it is cut short")
    if image.mode == "CMYK" and "adobe" not in image.info:
        raise ValueError("its CMYK values are ambiguous: it does not say whether they are inverted")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey values to 8 bits, because ``convert`` would clip them at 255.

    Raises:
        ValueError: if the range of the values is unknown or not supported.
    """
    if image.mode == "F":
        raise ValueError("its values are floating-point numbers without a known range")
    if not image.mode.startswith("I"):
        return image
    tiff = getattr(image, "tag_v2", {})
    bits = tiff.get(ExifTags.Base.BitsPerSample)
    if bits in ((12,), (32,)):
        raise ValueError(f"it has {bits[0]} bits per pixel; only 8 and 16 can be read")
    if tiff.get(ExifTags.Base.PhotometricInterpretation) == 0:
        raise ValueError("its value 0 means white, which can be read only with 8 bits per pixel")
    values = np.asarray(image)
    if values.min() < 0:
        raise ValueError(f"it has negative values (down to {values.min()})")
    return Image.fromarray((values / 257).round().astype(np.uint8))


def _reason(path: Path, error: Exception) -> str:
    if path.is_symlink() and not path.exists():
        return f"it is a link to {os.readlink(path)!r}, which does not exist"
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image of a supported format" if path.stat().st_size else "it is empty"
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error).split("\n")[0] or type(error).__name__


def class_folders(folder: Path) -> list[Path]:
    """Return the class folders in ``folder``, sorted by name; without :func:`is_system` ones.

    Raises:
        InputError: if a name cannot be written to a table, see :func:`check_names`.
    """
    folders = sorted(
        (p for p in folder.iterdir() if p.is_dir() and not is_system(p.name)),
        key=lambda p: p.name,
    )
    check_names(folder, (p.name for p in folders))
    return folders


def image_files(folder: Path) -> list[str]:
    """Return the images in ``folder`` at any depth, as sorted relative paths.

    Hidden files and those of the system are skipped.

    Raises:
        InputError: if a name cannot be written to a table, see :func:`check_names`.
    """
    files = []
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        subfolders[:] = [name for name in subfolders if not is_system(name)]
        below = Path(parent).relative_to(folder)
        files += [
            (below / name).as_posix() for name in names if is_image(name) and not is_system(name)
        ]
    check_names(folder, files)
    return sorted(files)


def check_names(folder: Path, names: Iterable[str]) -> None:
    """Check that names can be written to a table: they must be a single line of UTF-8.

    Raises:
        InputError: for the first name with a control character or bytes that are not UTF-8.
    """
    for name in names:
        if UNWRITABLE.search(name):
            raise InputError(
                f"{str(folder)!r} contains a name with a control character or bytes that are not "
                f"UTF-8: {name!r}; rename it"
            )


def is_system(name: str) -> bool:
    """Return whether a file or folder is hidden, or was left behind by an operating system."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def image_name(path: Path) -> str:
    """Return a file's name; a file without a suffix gets that of the image that it contains."""
    if os.path.splitext(path.name)[1]:
        return path.name
    try:
        with Image.open(path, formats=FORMATS) as image:
            return f"{path.name}.{(image.format or '').lower()}"
    except UNREADABLE:
        return path.name


def is_image(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
