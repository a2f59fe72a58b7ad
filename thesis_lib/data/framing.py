"""Frame images: any image as the square input of a backbone, whole or in random crops.

A plankton chain may be ten times as long as it is wide, so a center crop can miss most of it. With
``fit = "pad"`` the image becomes a square by adding margins of the color of its own border; with
``fit = "crop"`` it is cropped, as in the thesis.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor

from thesis_lib.config import RunConfig
from thesis_lib.data.organisms import border_color, region_properties
from thesis_lib.data.transforms import (
    EVALUATION_RESIZE,
    RESAMPLING,
    center_crop,
    crop_and_resize,
    draw_crops,
)
from thesis_lib.methods import REGIONS

# px; a longer image is shrunk before it is padded for random crops, whose square would be huge
MAX_SIDE = 4096
MOSTLY_VISIBLE = 0.8  # images of which less is visible are counted in notebook 01


@dataclass(frozen=True)
class Frame:
    """The square frame through which a model sees images.

    Args:
        size: side of the views, px.
        fit: how an image that is not square becomes square: "pad" or "crop".
        interpolation: how an image is resized: "bilinear" or "bicubic".
    """

    size: int
    fit: str
    interpolation: str = RunConfig.interpolation

    @classmethod
    def of(cls, config: RunConfig) -> "Frame":
        """Return the frame of a run."""
        return cls(config.image_size, config.fit, config.interpolation)

    def evaluation_view(self, image: np.ndarray) -> np.ndarray:
        """Return the view that validation, testing and prediction use: no randomness.

        "pad" shows the whole image: its longer side is resized to ``size``, the rest is margin.
        "crop" resizes the shorter side to size x 256 / 224 and takes the center crop.

        Args:
            image: (h, w, 3) uint8.

        Returns:
            (size, size, 3) uint8.
        """
        if self.fit == "crop":
            return center_crop(image, self.size, self.interpolation)
        resized = _with_longer_side(image, self.size, self.interpolation)
        return _on_square(resized, border_color(image))

    def random_views(self, images: Sequence[np.ndarray], drawn: np.ndarray) -> Tensor:
        """Return random crops, of the padded square with "pad", else of the image itself.

        Args:
            images: n arrays (h, w, 3) uint8.
            drawn: (n * k, DRAWS) random numbers, from which each image gets k views.

        Returns:
            (n * k, size, size, 3) uint8, image by image.
        """
        if self.fit == "pad":
            images = [pad_to_square(image) for image in images]
        images = [image for image in images for _ in range(len(drawn) // len(images))]
        crops = draw_crops(drawn, [(image.shape[1], image.shape[0]) for image in images])
        return crop_and_resize(images, crops, self.size, self.interpolation)


class RegionFrame:
    """Show an image as the region properties of its organism, instead of as pixels."""

    fit = "pad"  # the whole image is seen

    def evaluation_view(self, image: np.ndarray) -> np.ndarray:
        """Return the region properties (d,) float32 of an image (h, w, 3) uint8."""
        return region_properties(image)


def frame_of(config: RunConfig) -> Frame | RegionFrame:
    """Return the frame in which a run's backbone sees images outside pretraining."""
    return RegionFrame() if config.method == REGIONS else Frame.of(config)


def pad_to_square(image: np.ndarray) -> np.ndarray:
    """Center an image (h, w, 3) on a square of its border's color, (side, side, 3).

    An image longer than ``MAX_SIDE`` is shrunk to this length.
    """
    if image.shape[0] == image.shape[1]:
        return image
    color = border_color(image)
    if max(image.shape) > MAX_SIDE:
        image = _with_longer_side(image, MAX_SIDE)
    return _on_square(image, color)


def visible_shares(sizes: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the share of each image's area that :meth:`Frame.evaluation_view` shows.

    Args:
        sizes: one row per image; width and height in px.

    Returns:
        fit -> (n,) fractions.
    """
    sides = sizes[["width", "height"]].to_numpy()
    cropped = sides.min(1) / sides.max(1) / EVALUATION_RESIZE**2
    return {"pad": np.ones(len(sides)), "crop": cropped}


def _with_longer_side(image: np.ndarray, size: int, interpolation: str = "bilinear") -> np.ndarray:
    longer = max(image.shape[:2])
    height, width = (max(1, round(side * size / longer)) for side in image.shape[:2])
    picture = Image.fromarray(image).resize((width, height), RESAMPLING[interpolation])
    return np.asarray(picture)


def _on_square(image: np.ndarray, color: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.empty((side, side, 3), dtype=np.uint8)
    square[:] = color
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square
