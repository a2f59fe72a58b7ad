"""The two views: crops in the workers, colour on the device.

Every random choice is drawn from a generator keyed by (seed, epoch, image, view), so that a
view is the same whichever worker makes it and whatever ran before.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

CROP_SCALE = (0.2, 1.0)  # share of the image's area
CROP_RATIO = (3 / 4, 4 / 3)  # width / height
JITTER = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue
JITTER_PROBABILITY = 0.8
GRAYSCALE_PROBABILITY = 0.2
EVALUATION_RESIZE = 256 / 224  # the image is resized to this times the size that is cut out
LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue


def view_generator(seed: int, epoch: int, image: int, view: int) -> np.random.Generator:
    """The random generator of one view of one image in one epoch."""
    return np.random.default_rng((seed, epoch, image, view))


@dataclass(frozen=True)
class Crop:
    """A part of an image, in px from its top left corner, and whether it is mirrored."""

    left: int
    top: int
    width: int
    height: int
    flip: bool


def draw_crop(random: np.random.Generator, width: int, height: int) -> Crop:
    """Draw a crop as torchvision's RandomResizedCrop does, and a mirroring with probability 0.5.

    Args:
        random: the view's generator.
        width, height: size of the image in px.
    """
    flip = random.random() < 0.5
    log_ratio = (math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1]))
    for _ in range(10):
        area = width * height * random.uniform(*CROP_SCALE)
        ratio = math.exp(random.uniform(*log_ratio))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.integers(width - w + 1), random.integers(height - h + 1)
            return Crop(int(left), int(top), w, h, flip)
    # No crop fitted a long, thin image: its largest centred part within the ratio's bounds.
    w = min(width, max(1, round(height * CROP_RATIO[1])))
    h = min(height, max(1, round(width / CROP_RATIO[0])))
    return Crop((width - w) // 2, (height - h) // 2, w, h, flip)


def draw_colour(random: np.random.Generator) -> np.ndarray:
    """Draw one view's colour change: (10,) float32, to be applied by :func:`change_colour`.

    Whether to jitter, the factors of brightness, contrast and saturation, the shift of hue (in
    turns), the order of these four, and whether to turn grey.
    """
    low, high = 1 - np.array(JITTER[:3]), 1 + np.array(JITTER[:3])
    return np.concatenate(
        (
            [random.random() < JITTER_PROBABILITY],
            random.uniform(low, high),
            [random.uniform(-JITTER[3], JITTER[3])],
            random.permutation(4),
            [random.random() < GRAYSCALE_PROBABILITY],
        )
    ).astype(np.float32)


def pixels_of(image: Image.Image) -> Tensor:
    """An RGB image as (h, w, 4) uint8: its channels and a byte of padding, as Pillow holds it.

    Resizing four channels of bytes took less than half the time that three took.
    """
    flat = torch.frombuffer(bytearray(image.tobytes("raw", "RGBX")), dtype=torch.uint8)
    return flat.view(image.height, image.width, 4)


def cut(pixels: Tensor, crop: Crop, size: int) -> np.ndarray:
    """Cut a crop out and resize it (bilinear, antialiased), as one operation on bytes.

    Args:
        pixels: (h, w, 4) of :func:`pixels_of`.
        crop: its place.
        size: side of the view, px.

    Returns:
        (size, size, 3) uint8, within one grey level of Pillow's.
    """
    part = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    part = part.permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
    resized = interpolate(part, (size, size), mode="bilinear", antialias=True)[0]
    channels = (resized.flip(2) if crop.flip else resized).numpy()  # (4, size, size)
    view = np.empty((size, size, 3), dtype=np.uint8)
    for channel in range(3):  # a copy of three bytes in four takes five times as long
        view[..., channel] = channels[channel]
    return view


def central_view(image: Image.Image, size: int) -> np.ndarray:
    """The evaluation view: resize the shorter side to size x 256 / 224, cut out the centre.

    Returns:
        (size, size, 3) uint8.
    """
    shorter = max(size, int(size * EVALUATION_RESIZE))
    width, height = (side * shorter // min(image.size) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def to_float(views: Tensor) -> Tensor:
    """(..., size, size, 3) uint8 -> (n, 3, size, size) float32 on [0, 1], contiguous.

    The colour operations are three times as fast on contiguous channels.
    """
    return views.flatten(0, -4).movedim(-1, 1).contiguous().float().div_(255)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Subtract the data set's channel means and divide by its standard deviations."""
    mean_ = torch.tensor(mean, device=images.device).view(3, 1, 1)
    std_ = torch.tensor(std, device=images.device).view(3, 1, 1)
    return (images - mean_) / std_


def change_colour(images: Tensor, colour: Tensor) -> Tensor:
    """Jitter and grey a batch of views, each by its own row of parameters.

    The operations are torchvision's on float images.

    Args:
        images: (n, 3, h, w) on [0, 1].
        colour: (n, 10), rows of :func:`draw_colour`.
    """
    jittered, grey = colour[:, 0] > 0, colour[:, 9] > 0
    factors, order = colour[:, 1:5], colour[:, 5:9].long()
    for operation in order.unbind(1):  # (n,) each: 0 brightness, 1 contrast, 2 saturation, 3 hue
        # The first three mix an image with black, its mean grey or its own grey.
        luma = _luma(images)
        contrast, saturation = _rows(operation == 1), _rows(operation == 2)
        other = torch.where(saturation, luma, luma.mean((1, 2, 3), keepdim=True) * contrast)
        amount = factors.gather(1, operation[:, None]).squeeze(1)
        share = _rows(torch.where(jittered & (operation < 3), amount, 1.0))
        images = torch.lerp(other, images, share).clamp_(0, 1)
        hue = (jittered & (operation == 3)).nonzero().squeeze(1)
        images[hue] = _shift_hue(images[hue], amount[hue])
    return torch.where(_rows(grey), _luma(images), images)


def _rows(values: Tensor) -> Tensor:
    """(n,) -> (n, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def _luma(images: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, device=images.device).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True)  # (n, 1, h, w)


def _shift_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Shift the hue by (n,) shares of the colour circle, through HSV."""
    red, green, blue = images.unbind(1)  # (n, h, w) each
    value, minimum = images.amax(1), images.amin(1)
    chroma = value - minimum
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = (hue / 6 + turn.view(-1, 1, 1)) % 1 * 6  # sixths of the circle
    # Each channel is the value less a share of the chroma that depends on the hue alone.
    shifted = [
        value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)
        for k in ((offset + hue) % 6 for offset in (5, 3, 1))
    ]
    return torch.stack(shifted, 1).clamp_(0, 1)
