"""Find new images on disk and load them for a finished model.

The model sees them exactly as the images of validation and testing.
"""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from thesis_lib.config import RunConfig
from thesis_lib.data.framing import frame_of
from thesis_lib.data.images import IMAGE_SUFFIXES, MAX_PIXELS, UNWRITABLE, is_image, read_pixels
from thesis_lib.data.transforms import EVALUATION_RESIZE
from thesis_lib.errors import InputError, nearest


def find_images(places: Sequence[str]) -> list[str]:
    """Find all images in some folders, files and patterns; list each file once.

    Folders are searched recursively and patterns such as ``new/**/*.jpg`` are expanded; both
    yield only files with an image suffix, sorted. A file that is named explicitly is used
    whatever its suffix.

    Args:
        places: folders, files and patterns; the images are listed in this order.

    Raises:
        InputError: if a place does not exist, a pattern matches no image, or there is no image
            at all.
    """
    found: dict[str, str] = {}  # resolved path -> path under which it was found first
    for place in places:
        for image in _images_at(place):
            found.setdefault(os.path.realpath(image), image)
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"found no image in {', '.join(places)}; images end in {suffixes}")
    return list(found.values())


def _images_at(place: str) -> list[str]:
    if os.path.isdir(place):
        inside = glob.glob(os.path.join(glob.escape(place), "**", "*"), recursive=True)
        return sorted(path for path in inside if is_image(path) and _is_file(path))
    if os.path.lexists(place):  # checked before patterns, as a file name may contain brackets
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
    """Return whether opening the path cannot block, as it would for a pipe.

    A broken link counts as a file, so that it is listed as unreadable.
    """
    return os.path.isfile(path) or not os.path.exists(path)


def _nearest_to(place: str) -> str:
    """Suggest names similar to the first missing part of a path, as the end of an error message."""
    missing = Path(place)
    while not missing.parent.exists():
        missing = missing.parent
    names = os.listdir(missing.parent) if missing.parent.is_dir() else []
    return nearest(missing.name, names)


def printable(name: str) -> str:
    """Replace characters that a table cannot hold in a file name by Python escapes."""
    return UNWRITABLE.sub(lambda sign: sign[0].encode("unicode_escape").decode(), name)


class NewImages(Dataset):
    """New images as a model sees them; unreadable ones are reported instead of raising an error.

    Indexing with a list of indices returns a batch: the paths; the views of evaluation of the
    readable images, (k, size, size, 3) uint8, or their region properties (k, d); and for each
    image the reason why it cannot be read, or "" if it can.

    Args:
        paths: paths of the images.
        config: image_size, fit and crop_bottom.
    """

    def __init__(self, paths: Sequence[str], config: RunConfig) -> None:
        self.paths, self.frame, self.size = paths, frame_of(config), config.image_size
        self.crop_bottom = config.crop_bottom or 0

    def __getitem__(self, indices: list[int]) -> tuple[list[str], Tensor, list[str]]:
        """Load a batch of images."""
        paths = [self.paths[index] for index in indices]
        views, problems = [], []
        for path in paths:
            try:
                views.append(self._view(path))
                problems.append("")
            except InputError as error:
                problems.append(printable(str(error)))
        return paths, torch.from_numpy(np.stack(views)) if views else torch.empty(0), problems

    def _view(self, path: str) -> np.ndarray:
        if UNWRITABLE.search(path):
            raise InputError(
                "its name contains a control character or bytes that are not UTF-8; rename it"
            )
        image = read_pixels(Path(path), self.crop_bottom)
        height, width = image.shape[:2]
        shorter, longer = sorted((height, width))
        resized = longer / shorter * (self.size * EVALUATION_RESIZE) ** 2
        # "crop" resizes the shorter side, so a very thin image would become enormous.
        if self.frame.fit == "crop" and resized > MAX_PIXELS:
            raise InputError(
                f"cannot read the image {path!r}: {width} x {height} px is too long and thin for "
                "a center crop; replace or remove it"
            )
        return self.frame.evaluation_view(image)
