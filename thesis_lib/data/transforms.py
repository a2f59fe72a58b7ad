"""The two views: crops in the workers, colour on the device.

Every random number is a function of (seed, epoch, image, view), so that a view is the same
whichever worker makes it and whatever ran before.
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
EVALUATION_RESIZE = 256 / 224  # the image is resized to this times the size that is cut out
LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue

# The random numbers of a view: mirror, left, top, an area and a ratio for each attempt; then
# whether to jitter, four amounts, four places in the order of operations, whether to turn grey.
CROP_DRAWS = 3 + 2 * CROP_ATTEMPTS
DRAWS = CROP_DRAWS + 10
OWN = 2**32


def draw_random_numbers(seed: int, epoch: int, images: Sequence[int], views: int) -> np.ndarray:
    """The random numbers of the views of some images in one epoch.

    Each (seed, epoch) has a stream of PCG64, of which image i owns OWN numbers from i x OWN
    on, its view v DRAWS from v x DRAWS on: what a view gets depends on nothing else.

    Returns:
        (len(images) * views, DRAWS) uniform on [0, 1), an image's views neighbours.
    """
    stream = np.random.PCG64((seed, epoch))
    random, drawn, at = np.random.Generator(stream), np.empty((len(images), views * DRAWS)), 0
    for row, image in zip(drawn, images, strict=True):
        stream.advance((image * OWN - at) % 2**128)  # a step back is a step around the circle
        random.random(out=row)
        at = image * OWN + views * DRAWS
    return drawn.reshape(-1, DRAWS)


class Crop(NamedTuple):
    """A part of an image, in px from its top left corner, and whether it is mirrored."""

    left: int
    top: int
    width: int
    height: int
    flip: bool


def draw_crops(drawn: np.ndarray, sizes: Sequence[tuple[int, int]]) -> list[Crop]:
    """Crops as torchvision's RandomResizedCrop draws them, mirrored with probability 0.5.

    Args:
        drawn: (n, DRAWS) of :func:`draw_random_numbers`.
        sizes: (width, height) of each image in px.
    """
    width, height = np.asarray(sizes, dtype=float).T  # (n,) each
    area, log_ratio = drawn[:, 3:CROP_DRAWS].reshape(-1, 2, CROP_ATTEMPTS).swapaxes(0, 1)
    area = (width * height)[:, None] * _between(area, CROP_SCALE)  # (n, attempts)
    ratio = np.exp(_between(log_ratio, np.log(CROP_RATIO)))
    w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (w > 0) & (h > 0) & (w <= width[:, None]) & (h <= height[:, None])
    first = (np.arange(len(w)), fits.argmax(1))
    # No crop fitted a long, thin image: its largest centred part within the ratio's bounds.
    none = ~fits.any(1)
    widest = np.minimum(width, np.maximum(1, np.rint(height * CROP_RATIO[1])))
    highest = np.minimum(height, np.maximum(1, np.rint(width / CROP_RATIO[0])))
    w, h = np.where(none, widest, w[first]), np.where(none, highest, h[first])
    left = np.where(none, (width - w) // 2, np.floor(drawn[:, 1] * (width - w + 1)))
    top = np.where(none, (height - h) // 2, np.floor(drawn[:, 2] * (height - h + 1)))
    boxes = np.stack((left, top, w, h), 1).astype(int).tolist()
    flips = (drawn[:, 0] < 0.5).tolist()
    return [Crop(*box, flip) for box, flip in zip(boxes, flips, strict=True)]


def _between(share: np.ndarray, bounds: Sequence[float] | np.ndarray) -> np.ndarray:
    low, high = bounds
    return low + (high - low) * share


class JitterFactors(NamedTuple):
    """The color jitter of n views, in four places: each view has its own order of operations.

    What differs from view to view is worked out where the batch is made, so that nothing need
    be asked of the device.

    Attributes:
        share: (4, n) of the view in its mixture with black, its mean grey or its own grey:
            the factor of brightness, contrast or saturation; 1 for a view that stays.
        to_mean: (4, n) 1 where that place is contrast, else 0.
        to_grey: (4, n) 1 where that place is saturation, else 0.
        hue_views: (m,) indices of the views whose hue is shifted, place after place.
        hue_turns: (m,) the shifts, in turns of the colour circle.
        hue_counts: how many of these belong to each place.
        grey: (n,) 1 where the view turns grey in the end, else 0.
    """

    share: Tensor
    to_mean: Tensor
    to_grey: Tensor
    hue_views: Tensor
    hue_turns: Tensor
    hue_counts: list[int]
    grey: Tensor

    def to(self, device: torch.device) -> "JitterFactors":
        """The same on a device."""
        return JitterFactors(
            *(
                field.to(device, non_blocking=True) if isinstance(field, Tensor) else field
                for field in self
            )
        )


def draw_jitter(drawn: np.ndarray) -> JitterFactors:
    """The color jitter that n views' random numbers, (n, DRAWS), stand for."""
    jitter, amounts, order, grey = np.split(drawn[:, CROP_DRAWS:], (1, 5, 9), axis=1)
    operation = order.argsort(1).T  # (4, n): 0 brightness, 1 contrast, 2 saturation, 3 hue
    low = np.array([1 - JITTER[0], 1 - JITTER[1], 1 - JITTER[2], -JITTER[3]])
    amounts = low + 2 * np.array(JITTER) * amounts  # (n, 4)
    amount = np.take_along_axis(amounts, operation.T, axis=1).T  # (4, n)
    jittered = (jitter < JITTER_PROBABILITY).T  # (1, n)
    place, hue_views = (jittered & (operation == 3)).nonzero()
    return JitterFactors(
        share=_float(np.where(jittered & (operation < 3), amount, 1)),
        to_mean=_float(operation == 1),
        to_grey=_float(operation == 2),
        hue_views=torch.from_numpy(hue_views),
        hue_turns=_float(amount[place, hue_views]),
        hue_counts=np.bincount(place, minlength=4).tolist(),
        grey=_float(grey[:, 0] < GRAYSCALE_PROBABILITY),
    )


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def crop_and_resize(images: Sequence[np.ndarray], crops: Sequence[Crop], size: int) -> Tensor:
    """Cut a crop out of each image and resize it (bilinear, antialiased), on bytes.

    Args:
        images: (h, w, 3) uint8 each, of any sizes.
        crops: one of each image.
        size: side of the views, px.

    Returns:
        (n, size, size, 3) uint8, within one grey level of Pillow's (two at single pixels).
    """
    alike: dict[tuple[int, int], list[int]] = {}  # of small images many crops have one size
    for index, crop in enumerate(crops):
        alike.setdefault((crop.width, crop.height), []).append(index)
    views = [torch.empty(0)] * len(crops)
    for (width, height), indices in alike.items():
        corners = [(images[index], *crops[index][:2]) for index in indices]
        parts = np.stack([im[top : top + height, left : left + width] for im, left, top in corners])
        # (k, 3, h, w), a pixel's bytes neighbours: otherwise resizing takes twice as long.
        parts = torch.from_numpy(parts).movedim(-1, 1)
        resized = interpolate(parts, (size, size), mode="bilinear", antialias=True).movedim(1, -1)
        for index, view in zip(indices, resized, strict=True):
            views[index] = view.flip(1) if crops[index].flip else view
    return torch.stack(views)


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The evaluation view: resize the shorter side to size x 256 / 224, cut out the centre.

    Args:
        image: (h, w, 3) uint8.
        size: side of the view, px.

    Returns:
        (size, size, 3) uint8, Pillow's to the bit.
    """
    picture = Image.fromarray(image)
    shorter = max(size, int(size * EVALUATION_RESIZE))
    width, height = (side * shorter // min(picture.size) for side in picture.size)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def to_float(views: Tensor) -> Tensor:
    """(n, size, size, 3) uint8 -> (n, 3, size, size) float32 on [0, 1], contiguous.

    The colour operations are three times as fast on contiguous channels.
    """
    channels = views.movedim(-1, 1)
    return channels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Subtract the data set's channel means and divide by its standard deviations.

    Args:
        images: (n, 3, h, w); not changed.
        mean, std: (3,).

    Returns:
        (n, 3, h, w), a pixel's channels neighbours in memory: what convolutions like best.
    """
    mean, std = (_channels(tuple(values), images.device) for values in (mean, std))
    return (images - mean).div_(std).contiguous(memory_format=torch.channels_last)


@lru_cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3, 1, 1), sent to the device once: sending waits for it."""
    return torch.tensor(values, device=device).view(3, 1, 1)


def color_jitter(images: Tensor, factors: JitterFactors) -> Tensor:
    """Jitter and grey a batch of views, each in its own way.

    The operations are torchvision's on float images.

    Args:
        images: (n, 3, h, w) on [0, 1].
        factors: of the n views, on the same device.
    """
    images = images.clone()  # and no other tensor of this size: making one takes longer than any
    hue_views = factors.hue_views.split(factors.hue_counts)
    hue_turns = factors.hue_turns.split(factors.hue_counts)
    for place in range(4):
        luma = _luma(images)
        mean = luma.mean((2, 3), keepdim=True)
        other = luma.mul_(_rows(factors.to_grey[place])).add_(mean * _rows(factors.to_mean[place]))
        torch.lerp(other, images, _rows(factors.share[place]), out=images).clamp_(0, 1)
        views = hue_views[place]
        images[views] = _shift_hue(images.index_select(0, views), hue_turns[place])
    return images.lerp_(_luma(images), _rows(factors.grey))


def _rows(values: Tensor) -> Tensor:
    """(n,) -> (n, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, dim=1)  # (n, 1, h, w) each
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _shift_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Shift the hue by (n,) shares of the colour circle, through HSV."""
    red, green, blue = images.split(1, dim=1)  # (n, 1, h, w) each
    value, minimum = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - minimum
    # 0 where that channel is the largest, else 1: choosing by a mask takes ten times a mixture.
    not_red, not_green = (value - red).ceil_(), (value - green).ceil_()
    difference = torch.lerp(blue - red, red - green, not_green)
    difference = torch.lerp(green - blue, difference, not_red)
    hue = difference.div_(chroma.clamp(min=torch.finfo(chroma.dtype).tiny))
    hue.add_(not_red, alpha=2).addcmul_(not_red, not_green, value=2)  # sixths of the circle
    hue.add_(_rows(turn), alpha=6)
    hue.sub_((hue / 6).floor_(), alpha=6)  # on [0, 6)
    # Each channel is the value less a share of the chroma that depends on the hue alone.
    centre, sign, offset = (
        _channels(constants, images.device)
        for constants in ((3.0, 2.0, 4.0), (-1.0, 1.0, 1.0), (2.0, -1.0, -1.0))
    )
    share = (hue - centre).abs_().mul_(sign).add_(offset).clamp_(0, 1)  # (n, 3, h, w)
    return torch.addcmul(value, chroma, share, value=-1)
