"""Make views: workers crop and resize the images, the training device applies the color jitter.

Every random number depends only on (seed, epoch, image, view). So a view is the same whichever
worker makes it, and after a run is resumed.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

CROP_SCALE = (0.2, 1.0)  # share of the image's area
CROP_RATIO = (3 / 4, 4 / 3)  # width / height
CROP_ATTEMPTS = 10
JITTER = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue
JITTER_PROBABILITY = 0.8
GRAYSCALE_PROBABILITY = 0.2
EVALUATION_RESIZE = 256 / 224  # resized shorter side / side of the center crop
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue

# The random numbers of a view: flip, left, top, an area and a ratio for each attempt; then whether
# to jitter, four amounts, four sort keys for the order of operations, whether to convert to grey.
CROP_DRAWS = 3 + 2 * CROP_ATTEMPTS
DRAWS = CROP_DRAWS + 10
OWN = 2**32  # random numbers reserved for each image


def draw_random_numbers(
    seed: int, epoch: int, indices: Sequence[int], num_views: int
) -> np.ndarray:
    """Draw the random numbers for the views of some images in one epoch.

    Each (seed, epoch) has its own PCG64 stream. View v of image i gets the DRAWS numbers from
    position i * OWN + v * DRAWS, whatever other images and views are drawn.

    Args:
        seed: the run's random seed.
        epoch: the epoch.
        indices: indices of the images.
        num_views: number of views per image.

    Returns:
        (len(indices) * num_views, DRAWS) uniform on [0, 1); one row per view, image by image.
    """
    stream = np.random.PCG64((seed, epoch))
    random, at = np.random.Generator(stream), 0
    drawn = np.empty((len(indices), num_views * DRAWS))
    for row, index in zip(drawn, indices, strict=True):
        stream.advance((index * OWN - at) % 2**128)  # the period is 2^128, so this can go back
        random.random(out=row)
        at = index * OWN + num_views * DRAWS
    return drawn.reshape(-1, DRAWS)


class Crop(NamedTuple):
    """A crop box in px from the top left corner of the image, and whether to flip it left-right."""

    left: int
    top: int
    width: int
    height: int
    flip: bool


def draw_crops(drawn: np.ndarray, sizes: Sequence[tuple[int, int]]) -> list[Crop]:
    """Choose crops as torchvision's RandomResizedCrop does, flipped with probability 0.5.

    Args:
        drawn: (n, DRAWS) random numbers from :func:`draw_random_numbers`.
        sizes: (width, height) in px of the image that each crop is taken from.

    Returns:
        The n crops.
    """
    width, height = np.asarray(sizes, dtype=float).T  # (n,) each
    area, log_ratio = drawn[:, 3:CROP_DRAWS].reshape(-1, 2, CROP_ATTEMPTS).swapaxes(0, 1)
    area = (width * height)[:, None] * _between(area, CROP_SCALE)  # (n, attempts)
    ratio = np.exp(_between(log_ratio, np.log(CROP_RATIO)))
    w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (w > 0) & (h > 0) & (w <= width[:, None]) & (h <= height[:, None])
    first = (np.arange(len(w)), fits.argmax(1))
    # If no attempt fits (a long, thin image), take the largest central crop within the ratios.
    none = ~fits.any(1)
    widest = np.minimum(width, np.maximum(1, np.rint(height * CROP_RATIO[1])))
    highest = np.minimum(height, np.maximum(1, np.rint(width / CROP_RATIO[0])))
    w, h = np.where(none, widest, w[first]), np.where(none, highest, h[first])
    left = np.where(none, (width - w) // 2, np.floor(drawn[:, 1] * (width - w + 1)))
    top = np.where(none, (height - h) // 2, np.floor(drawn[:, 2] * (height - h + 1)))
    boxes = np.stack((left, top, w, h), 1).astype(int).tolist()
    flips = (drawn[:, 0] < 0.5).tolist()
    return [Crop._make((*box, flip)) for box, flip in zip(boxes, flips, strict=True)]


def _between(share: np.ndarray, bounds: Sequence[float] | np.ndarray) -> np.ndarray:
    low, high = bounds
    return low + (high - low) * share


class JitterFactors(NamedTuple):
    """The color jitter of n views, as four steps; each view has its own order of operations.

    These values are computed when the batch is made, so that the device never has to be
    synchronised.

    Attributes:
        share: (4, n) weight of the view when it is mixed with black (brightness), its mean grey
            (contrast) or its own greyscale version (saturation); 1 leaves the view unchanged.
        to_mean: (4, n) 1 if the step is contrast, else 0.
        to_grey: (4, n) 1 if the step is saturation, else 0.
        hue_views: (m,) indices of the views whose hue is shifted, step by step.
        hue_turns: (m,) the hue shifts, in turns of the colour circle.
        hue_counts: (4) number of hue shifts in each step.
        grey: (n,) 1 if the view is converted to grey at the end, else 0.
    """

    share: Tensor
    to_mean: Tensor
    to_grey: Tensor
    hue_views: Tensor
    hue_turns: Tensor
    hue_counts: list[int]
    grey: Tensor

    def to(self, device: torch.device) -> "JitterFactors":
        """Return a copy with all tensors on ``device``."""
        return JitterFactors(
            *(
                field.to(device, non_blocking=True) if isinstance(field, Tensor) else field
                for field in self
            )
        )


def draw_jitter(drawn: np.ndarray) -> JitterFactors:
    """Return the color jitter of n views, given their random numbers (n, DRAWS)."""
    jitter, amounts, order, grey = np.split(drawn[:, CROP_DRAWS:], (1, 5, 9), axis=1)
    operation = order.argsort(1).T  # (4, n): 0 brightness, 1 contrast, 2 saturation, 3 hue
    low = np.array([1 - JITTER[0], 1 - JITTER[1], 1 - JITTER[2], -JITTER[3]])
    amounts = low + 2 * np.array(JITTER) * amounts  # (n, 4)
    amount = np.take_along_axis(amounts, operation.T, axis=1).T  # (4, n)
    jittered = (jitter < JITTER_PROBABILITY).T  # (1, n)
    step, hue_views = (jittered & (operation == 3)).nonzero()
    return JitterFactors(
        share=_float(np.where(jittered & (operation < 3), amount, 1)),
        to_mean=_float(operation == 1),
        to_grey=_float(operation == 2),
        hue_views=torch.from_numpy(hue_views),
        hue_turns=_float(amount[step, hue_views]),
        hue_counts=np.bincount(step, minlength=4).tolist(),
        grey=_float(grey[:, 0] < GRAYSCALE_PROBABILITY),
    )


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def crop_and_resize(
    images: Sequence[np.ndarray], crops: Sequence[Crop], size: int, interpolation: str = "bilinear"
) -> Tensor:
    """Crop each image and resize the crop with antialiasing, using 8-bit arithmetic.

    Args:
        images: n arrays (h, w, 3) uint8, of any sizes.
        crops: one per image.
        size: side of the views, px.
        interpolation: "bilinear" or "bicubic".

    Returns:
        (n, size, size, 3) uint8, within one level of Pillow's result (two at a few pixels).
    """
    # Crops of equal size, which are common with small images, are resized together.
    alike: dict[tuple[int, int], list[int]] = {}
    for index, crop in enumerate(crops):
        alike.setdefault((crop.width, crop.height), []).append(index)
    views = [torch.empty(0)] * len(crops)
    for (width, height), indices in alike.items():
        corners = [(images[index], *crops[index][:2]) for index in indices]
        parts = np.stack([im[top : top + height, left : left + width] for im, left, top in corners])
        # (k, 3, h, w) in channels-last memory order: otherwise resizing takes twice as long.
        parts = torch.from_numpy(parts).movedim(-1, 1)
        resized = interpolate(parts, (size, size), mode=interpolation, antialias=True)
        resized = resized.movedim(1, -1)
        for index, view in zip(indices, resized, strict=True):
            views[index] = view.flip(1) if crops[index].flip else view
    return torch.stack(views)


def center_crop(image: np.ndarray, size: int, interpolation: str = "bilinear") -> np.ndarray:
    """Resize the shorter side of an image to size x 256 / 224 and take the center crop.

    Args:
        image: (h, w, 3) uint8.
        size: side of the view, px.
        interpolation: "bilinear" or "bicubic".

    Returns:
        (size, size, 3) uint8, bit-identical to Pillow's result.
    """
    picture = Image.fromarray(image)
    shorter = max(size, int(size * EVALUATION_RESIZE))
    width, height = (side * shorter // min(picture.size) for side in picture.size)
    resized = picture.resize((width, height), RESAMPLING[interpolation])
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def to_float(views: Tensor) -> Tensor:
    """Convert views (n, size, size, 3) uint8 to (n, 3, size, size) float32 on [0, 1], contiguous.

    Color jitter is three times as fast on contiguous channels.
    """
    channels = views.movedim(-1, 1)
    return channels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Subtract the data set's channel means and divide by its standard deviations.

    Args:
        images: (n, 3, h, w); not modified.
        mean, std: (3,).

    Returns:
        (n, 3, h, w) in channels-last memory order, which is fastest for convolutions.
    """
    mean, std = (_channels(tuple(values), images.device) for values in (mean, std))
    return (images - mean).div_(std).contiguous(memory_format=torch.channels_last)


@lru_cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return a (3, 1, 1) tensor, cached because copying it to the device synchronises."""
    return torch.tensor(values, device=device).view(3, 1, 1)


def color_jitter(images: Tensor, factors: JitterFactors) -> Tensor:
    """Apply color jitter and random greyscale to a batch, with different factors for each view.

    The operations are those of torchvision on float images.

    Args:
        images: (n, 3, h, w) on [0, 1]; not modified.
        factors: for the n views, on the same device.

    Returns:
        (n, 3, h, w) on [0, 1].
    """
    images = images.clone()  # the only new tensor of this size: allocating is the slowest step
    hue_views = factors.hue_views.split(factors.hue_counts)
    hue_turns = factors.hue_turns.split(factors.hue_counts)
    for step in range(4):
        luma = _luma(images)
        mean = luma.mean((2, 3), keepdim=True)
        other = luma.mul_(_rows(factors.to_grey[step])).add_(mean * _rows(factors.to_mean[step]))
        torch.lerp(other, images, _rows(factors.share[step]), out=images).clamp_(0, 1)
        views = hue_views[step]
        images[views] = _shift_hue(images.index_select(0, views), hue_turns[step])
    return images.lerp_(_luma(images), _rows(factors.grey))


def _rows(values: Tensor) -> Tensor:
    """Reshape (n,) to (n, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, dim=1)  # (n, 1, h, w) each
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _shift_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Shift the hue of each image in HSV; turn: (n,) in turns of the colour circle."""
    red, green, blue = images.split(1, dim=1)  # (n, 1, h, w) each
    value, minimum = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - minimum
    # 0 where that channel is the largest, else 1. Blending is ten times as fast as masking.
    not_red, not_green = (value - red).ceil_(), (value - green).ceil_()
    difference = torch.lerp(blue - red, red - green, not_green)
    difference = torch.lerp(green - blue, difference, not_red)
    hue = difference.div_(chroma.clamp(min=torch.finfo(chroma.dtype).tiny))
    hue.add_(not_red, alpha=2).addcmul_(not_red, not_green, value=2)  # sixths of the circle
    hue.add_(_rows(turn), alpha=6)
    hue.sub_((hue / 6).floor_(), alpha=6)  # on [0, 6)
    # Each channel is the value minus a share of the chroma that depends only on the hue.
    centre, sign, offset = (
        _channels(constants, images.device)
        for constants in ((3.0, 2.0, 4.0), (-1.0, 1.0, 1.0), (2.0, -1.0, -1.0))
    )
    share = (hue - centre).abs_().mul_(sign).add_(offset).clamp_(0, 1)  # (n, 3, h, w)
    return torch.addcmul(value, chroma, share, value=-1)
