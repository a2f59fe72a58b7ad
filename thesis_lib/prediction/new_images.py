"""Images from anywhere, for a finished model: found on disk, and read as it was tested."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from thesis_lib.data.images import IMAGE_SUFFIXES, MAX_PIXELS, UNWRITABLE, is_image, read_pixels
from thesis_lib.data.transforms import EVALUATION_RESIZE, center_crop
from thesis_lib.errors import InputError, nearest


def find_images(places: Sequence[str]) -> list[str]:
    """The images at some places, each file once, in the order of the places.

    A folder is searched at any depth, a pattern such as ``new/**/*.jpg`` is expanded; what they
    hold is sorted, and an image by its suffix. A file that is named is taken whatever its suffix.

    Args:
        places: folders, files and patterns.

    Raises:
        InputError: for a place that is not there, a pattern that nothing matches, or no image.
    """
    found: dict[str, str] = {}  # where a file really lies -> where it was found first
    for place in places:
        for image in _images_at(place):
            found.setdefault(os.path.realpath(image), image)
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"there is no image in {', '.join(places)}; images end in {suffixes}")
    return list(found.values())


def _images_at(place: str) -> list[str]:
    if os.path.isdir(place):
        inside = glob.glob(os.path.join(glob.escape(place), "**", "*"), recursive=True)
        return sorted(path for path in inside if is_image(path) and _is_file(path))
    if os.path.lexists(place):  # before any pattern: a file's name can hold brackets
        if not _is_file(place):
            raise InputError(f"{place} is neither a file nor a folder")
        return [place]
    if not any(sign in place for sign in "*?["):
        raise InputError(f"there is no file or folder {place!r}{_nearest_to(place)}")
    images = []
    for path in sorted(glob.glob(place, recursive=True)):
        if os.path.isdir(path):
            images += _images_at(path)
        elif is_image(path) and _is_file(path):
            images.append(path)
    if not images:
        raise InputError(f"no image matches the pattern {place!r}{_nearest_to(place)}")
    return images


def _is_file(path: str) -> bool:
    """Whether it can be opened without waiting for ever; a link to nothing is listed as such."""
    return os.path.isfile(path) or not os.path.exists(path)


def _nearest_to(place: str) -> str:
    """The names most like the first part of a path that is not there, as an error ends."""
    missing = Path(place)
    while not missing.parent.exists():
        missing = missing.parent
    names = os.listdir(missing.parent) if missing.parent.is_dir() else []
    return nearest(missing.name, names)


def printable(name: str) -> str:
    """A file's name as a table can hold it: what it cannot, as Python's escapes."""
    return UNWRITABLE.sub(lambda sign: sign[0].encode("unicode_escape").decode(), name)


class CentralViews(Dataset):
    """Images as the views of evaluation, a batch of numbers at a time, whatever is wrong with one.

    A batch is the paths; the views of those images that can be read (k, size, size, 3) uint8; and
    for each image why it cannot be read, "" where it can.
    """

    def __init__(self, paths: Sequence[str], size: int) -> None:
        self.paths, self.size = paths, size

    def __getitem__(self, numbers: list[int]) -> tuple[list[str], Tensor, list[str]]:
        """The views of a batch of images."""
        paths = [self.paths[number] for number in numbers]
        views, problems = [], []
        for path in paths:
            try:
                views.append(_central_view(path, self.size))
                problems.append("")
            except InputError as error:
                problems.append(printable(str(error)))
        stacked = np.stack(views) if views else np.empty((0, self.size, self.size, 3), np.uint8)
        return paths, torch.from_numpy(stacked), problems


def _central_view(path: str, size: int) -> np.ndarray:
    if UNWRITABLE.search(path):
        raise InputError(
            "its name has a control character or bytes that are not UTF-8; rename the image"
        )
    image = read_pixels(Path(path))
    height, width = image.shape[:2]
    shorter, longer = sorted((height, width))
    # The shorter side is resized to the view's: of a line of pixels that makes a vast image.
    if longer / shorter * (size * EVALUATION_RESIZE) ** 2 > MAX_PIXELS:
        raise InputError(
            f"cannot read the image {path!r}: {width} x {height} px are too long and thin for a "
            "view; replace or remove it"
        )
    return center_crop(image, size)
