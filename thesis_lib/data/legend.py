"""Find a legend or scale bar that is burnt into the same place of most images.

A network can learn the legend instead of the organism, for example because the length of its bar,
or its place, tells the size of the image.
"""

from dataclasses import dataclass

import numpy as np

from thesis_lib.data.datasets import Split
from thesis_lib.data.organisms import border_color
from thesis_lib.errors import InputError

ROWS, COLUMNS = 64, 128  # px at the bottom left, middle and right of each image that are searched
NUM_IMAGES = 200  # that are read
CONTRAST = 40  # grey levels by which a mark differs from the background
TOLERANCE = 16  # grey levels by which a mark may differ between images; JPEG changes some
LEAST_SHARE = 0.9  # of the images that have the mark
LEAST_PIXELS = 5


@dataclass(frozen=True)
class Legend:
    """A mark at the same place of most images: rows counted from the bottom of the file, from 1."""

    lowest_row: int
    highest_row: int
    share: float

    def __str__(self) -> str:
        return (
            f"{self.share:.0%} of the images have the same mark in rows {self.lowest_row} to "
            f"{self.highest_row} from the bottom, such as a scale bar, which a network can learn: "
            f"split the data again with --crop-bottom {self.highest_row} or a little more"
        )


def find_legend(split: Split, seed: int = 42) -> Legend | None:
    """Find the mark that most images of a split have at the bottom left, middle or right.

    A pixel belongs to it if at least 90 % of the images have the same grey level there, which is
    not that of their background. Images that cannot be read, and pixels that most images are too
    small to have, are left out.

    Args:
        split: the images, of which up to ``NUM_IMAGES`` are read.
        seed: seed of their choice.

    Returns:
        The mark, or None.
    """
    random = np.random.default_rng(seed)
    chosen = random.choice(len(split), min(NUM_IMAGES, len(split)), replace=False)
    regions: dict[str, list[np.ndarray]] = {"left": [], "middle": [], "right": []}
    for index in sorted(chosen):
        try:
            image = split.read(index)
        except InputError:  # the statistics list unreadable images
            continue
        background = border_color(image).mean()
        regions["left"].append(_region(image, background))
        regions["middle"].append(
            _region(image[:, max(0, (image.shape[1] - COLUMNS) // 2) :], background)
        )
        regions["right"].append(_region(image[:, ::-1], background))
    found = [_same_mark(np.stack(levels)) for levels in regions.values() if levels]
    marks = [mark for mark in found if mark is not None]
    if not marks:
        return None
    highest, cut = max(marks, key=lambda mark: mark.highest_row), split.crop_bottom
    return Legend(highest.lowest_row + cut, highest.highest_row + cut, highest.share)


def _region(image: np.ndarray, background: float) -> np.ndarray:
    """Return the grey levels at the bottom left, upside down; NaN: background or outside."""
    bottom = image[::-1][:ROWS, :COLUMNS].mean(2)
    levels = np.full((ROWS, COLUMNS), np.nan)
    levels[: bottom.shape[0], : bottom.shape[1]] = bottom
    levels[np.abs(levels - background) <= CONTRAST] = np.nan
    return levels


def _same_mark(levels: np.ndarray) -> Legend | None:
    """Return the mark in a region (n, rows, columns) of all images, if there is one."""
    few = np.isfinite(levels).mean(0) < LEAST_SHARE  # (rows, columns)
    typical = np.nanmedian(np.where(few, 0, levels), axis=0)
    share = (np.abs(levels - typical) <= TOLERANCE).mean(0)
    share[few] = 0
    marked = share >= LEAST_SHARE
    if marked.sum() < LEAST_PIXELS:
        return None
    rows = np.flatnonzero(marked.any(1))
    return Legend(int(rows[0]) + 1, int(rows[-1]) + 1, float(share[marked].min()))
