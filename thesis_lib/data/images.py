"""Image files: which files are images, and their pixels as 8-bit RGB."""

import contextlib
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_jpeg

from thesis_lib.errors import InputError

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
# Control characters, line ends, and what Python makes of bytes that are not UTF-8.
UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

# Pillow would try others as well, and run PostScript where Ghostscript is installed. MPO is a JPEG.
FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "BMP", "PPM", "WEBP")


MAX_PIXELS = 100_000_000  # of one image; a file of a few kB can claim to have any number


# What Pillow raises on bytes that are not what they seem.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError),
    *(struct.error, Image.DecompressionBombError),
)


MP_ENTRY = 0xB002  # of an MPO's index: what is told of each of its pictures


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


def class_folders(folder: Path) -> list[Path]:
    """The class folders in ``folder``, sorted by name; hidden ones are no classes.

    Raises:
        InputError: for a name that tables cannot hold, see :func:`check_names`.
    """
    folders = sorted(
        (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")),
        key=lambda p: p.name,
    )
    check_names(folder, (p.name for p in folders))
    return folders


def image_files(folder: Path) -> list[str]:
    """Paths below ``folder`` of its images, at any depth, sorted; hidden files are no images.

    Raises:
        InputError: for a name that tables cannot hold, see :func:`check_names`.
    """
    files = []
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        below = Path(parent).relative_to(folder)
        files += [
            (below / name).as_posix()
            for name in names
            if is_image(name) and not name.startswith(".")
        ]
    check_names(folder, files)
    return sorted(files)


def check_names(folder: Path, names: Iterable[str]) -> None:
    """Refuse names that no table can hold, since they are no UTF-8 or no single line.

    Raises:
        InputError: for the first name with a control character or bytes that are not UTF-8.
    """
    for name in names:
        if UNWRITABLE.search(name):
            raise InputError(
                f"{str(folder)!r} has a name with a control character or bytes that are not "
                f"UTF-8: {name!r}; rename it"
            )


def is_image(name: str) -> bool:
    """Whether a file's suffix is an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
