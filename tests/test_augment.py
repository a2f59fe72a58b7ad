"""The two views against torchvision: crops, colours, the evaluation view, and their seeds."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import CenterCrop, RandomResizedCrop, Resize
from torchvision.transforms.functional import to_tensor
from torchvision.transforms.v2 import functional as F

from thesis_lib.augment import (
    CROP_RATIO,
    CROP_SCALE,
    Crop,
    central_view,
    change_colour,
    cut,
    draw_colour,
    draw_crop,
    normalise,
    pixels_of,
    to_float,
    view_generator,
)

torch.set_num_threads(1)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with both smooth and fine structure."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([np.sin(x / 9 + c) * np.cos(y / 7 - c) for c in range(3)], 2) * 90 + 120
    return Image.fromarray((smooth + random.normal(0, 20, smooth.shape)).clip(0, 255).astype("u1"))


def test_settings_are_the_recipes():
    from thesis_lib import augment

    assert augment.CROP_SCALE == (0.2, 1.0)
    assert augment.JITTER == (0.4, 0.4, 0.4, 0.1)
    assert (augment.JITTER_PROBABILITY, augment.GRAYSCALE_PROBABILITY) == (0.8, 0.2)
    assert augment.EVALUATION_RESIZE == 256 / 224


# --- crops


def crops(n: int, width: int, height: int) -> list[Crop]:
    return [draw_crop(view_generator(0, 1, i, 0), width, height) for i in range(n)]


@pytest.mark.parametrize(("width", "height"), [(449, 449), (640, 480), (90, 240)])
def test_crops_are_distributed_as_torchvisions(width, height):
    n = 3000
    ours = crops(n, width, height)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    boxes = [RandomResizedCrop.get_params(image, CROP_SCALE, CROP_RATIO) for _ in range(n)]
    theirs = [Crop(left, top, w, h, False) for top, left, h, w in boxes]
    for quantity in (
        lambda c: c.width * c.height / (width * height),
        lambda c: c.width / c.height,
        lambda c: c.left / max(1, width - c.width),
        lambda c: c.top / max(1, height - c.height),
    ):
        test = stats.ks_2samp([quantity(c) for c in ours], [quantity(c) for c in theirs])
        assert test.pvalue > 0.01


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (2, 3), (8, 8), (500, 3), (3, 500), (37, 61)]
)
def test_crops_lie_inside_the_image(width, height):
    for crop in crops(300, width, height):
        assert crop.width >= 1 and crop.height >= 1 and crop.left >= 0 and crop.top >= 0
        assert crop.left + crop.width <= width and crop.top + crop.height <= height


@pytest.mark.parametrize(
    ("width", "height"), [(1000, 20), (20, 1000), (999, 7), (7, 999), (1, 50), (50, 1)]
)
def test_long_thin_images_fall_back_to_torchvisions_central_crop(width, height):
    image = torch.empty(3, height, width)
    top, left, h, w = RandomResizedCrop.get_params(image, CROP_SCALE, CROP_RATIO)
    fallen_back = {(c.left, c.top, c.width, c.height) for c in crops(50, width, height)}
    assert fallen_back == {(left, top, w, h)}


def test_half_of_the_crops_are_mirrored():
    flips = sum(crop.flip for crop in crops(4000, 100, 100))
    assert stats.binomtest(flips, 4000, 0.5).pvalue > 0.01


@pytest.mark.parametrize(
    ("crop", "size"),
    [
        (Crop(10, 5, 60, 70, False), 32),  # smaller: antialiased
        (Crop(0, 0, 120, 90, False), 64),
        (Crop(30, 20, 11, 14, False), 64),  # larger
        (Crop(119, 89, 1, 1, False), 8),
        (Crop(10, 5, 60, 70, True), 32),
    ],
)
def test_cut_is_torchvisions_crop_and_resize_within_a_grey_level(crop, size):
    image = photo(120, 90)
    box = (crop.top, crop.left, crop.height, crop.width)
    expected = F.resized_crop(image, *box, [size, size], antialias=True)
    if crop.flip:
        expected = F.horizontal_flip(expected)
    view = cut(pixels_of(image), crop, size)
    assert view.dtype == np.uint8 and view.shape == (size, size, 3)
    difference = np.abs(view.astype(int) - np.asarray(expected))
    assert difference.max() <= 1 and difference.mean() < 0.05


def test_crops_of_450_px_pictures_are_torchvisions_within_half_a_grey_level():
    image = photo(450, 450)
    for number, crop in enumerate(crops(50, 450, 450)):
        box = (crop.top, crop.left, crop.height, crop.width)
        expected = F.resized_crop(image, *box, [224, 224], antialias=True)
        if crop.flip:
            expected = F.horizontal_flip(expected)
        difference = np.abs(cut(pixels_of(image), crop, 224).astype(int) - np.asarray(expected))
        assert difference.max() <= 1 and difference.mean() < 0.5, number


def test_pixels_are_the_images(tmp_path):
    image = photo(7, 5)
    assert pixels_of(image).shape == (5, 7, 4)
    assert np.array_equal(pixels_of(image)[..., :3].numpy(), np.asarray(image))


# --- evaluation


@pytest.mark.parametrize("size", [28, 32, 64, 224])
@pytest.mark.parametrize(
    ("width", "height"), [(449, 449), (100, 333), (640, 481), (20, 20), (31, 900), (301, 300)]
)
def test_central_view_is_torchvisions_resize_and_centre_crop(width, height, size):
    image = photo(width, height)
    expected = CenterCrop(size)(Resize(int(size * 256 / 224))(image))
    view = central_view(image, size)
    assert view.shape == (size, size, 3) and view.dtype == np.uint8
    assert np.array_equal(view, np.asarray(expected))


def test_central_view_resizes_to_torchvisions_size_to_the_pixel():
    """Sizes at which width x (256 / height) rounds below a whole number."""
    for short, long in [(644, 1288), (161, 322), (322, 644), (449, 898), (100, 200), (333, 999)]:
        for size in (32, 64, 128, 224):
            image = photo(long, short)
            expected = CenterCrop(size)(Resize(int(size * 256 / 224))(image))
            assert np.array_equal(central_view(image, size), np.asarray(expected)), (short, size)


# --- colours


def naive_colour(image: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """torchvision's functions, one after the other in the drawn order."""
    jitter, brightness, contrast, saturation, hue, *order, grey = colour.tolist()
    operations = [
        lambda x: F.adjust_brightness(x, brightness),
        lambda x: F.adjust_contrast(x, contrast),
        lambda x: F.adjust_saturation(x, saturation),
        lambda x: F.adjust_hue(x, hue),
    ]
    if jitter:
        for operation in order:
            image = operations[int(operation)](image)
    return F.rgb_to_grayscale(image, num_output_channels=3) if grey else image


def views_and_colours(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.stack([F.to_dtype(F.to_image(photo(24, 20, i)), scale=True) for i in range(n)])
    images[0], images[1] = 0.0, 1.0
    images[2] = images[2].mean(0)  # without colour
    images[3] = images[3].round()  # the corners of the colour cube
    colours = np.stack([draw_colour(view_generator(3, 1, i, 0)) for i in range(n)])
    return images, torch.from_numpy(colours)


def test_change_colour_is_torchvisions_in_the_drawn_order():
    images, colours = views_and_colours(200)
    original = images.clone()
    changed = change_colour(images, colours)
    expected = torch.stack([naive_colour(*pair) for pair in zip(images, colours, strict=True)])
    assert len({tuple(row[5:9].tolist()) for row in colours}) == 24  # every order occurs
    assert (changed - expected).abs().max() < 1e-5
    assert torch.equal(images, original)
    assert changed.min() >= 0 and changed.max() <= 1


@pytest.mark.parametrize("operation", range(4), ids=["brightness", "contrast", "saturation", "hue"])
def test_each_operation_alone_is_torchvisions(operation):
    images, _ = views_and_colours(12)
    for amount in (-0.1, 0.1) if operation == 3 else (0.6, 1.4):
        colour = torch.tensor([[1.0, 1, 1, 1, 0, 0, 1, 2, 3, 0]]).repeat(len(images), 1)
        colour[:, 1 + operation] = amount
        adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
        expected = torch.stack([adjust[operation](image, amount) for image in images])
        assert (change_colour(images, colour) - expected).abs().max() < 1e-5


def test_a_view_without_jitter_or_grey_stays_as_it_is():
    images, colours = views_and_colours(20)
    colours[:, 0] = colours[:, 9] = 0
    assert torch.equal(change_colour(images, colours), images)


def test_a_views_colour_does_not_depend_on_its_batch():
    images, colours = views_and_colours(16)
    whole = change_colour(images, colours)
    alone = torch.cat([change_colour(images[i : i + 1], colours[i : i + 1]) for i in range(16)])
    assert (whole - alone).abs().max() < 1e-6


def test_colours_are_drawn_with_the_recipes_frequencies_and_ranges():
    n = 4000
    colours = np.stack([draw_colour(view_generator(0, 1, i, 1)) for i in range(n)])
    assert colours.shape == (n, 10) and colours.dtype == np.float32
    assert stats.binomtest(int(colours[:, 0].sum()), n, 0.8).pvalue > 0.01
    assert stats.binomtest(int(colours[:, 9].sum()), n, 0.2).pvalue > 0.01
    for column in (1, 2, 3):
        assert stats.kstest(colours[:, column], stats.uniform(0.6, 0.8).cdf).pvalue > 0.01
    assert stats.kstest(colours[:, 4], stats.uniform(-0.1, 0.2).cdf).pvalue > 0.01
    orders, counts = np.unique(colours[:, 5:9], axis=0, return_counts=True)
    assert len(orders) == 24 and stats.chisquare(counts).pvalue > 0.01
    assert (np.sort(colours[:, 5:9], axis=1) == np.arange(4)).all()
    # independent of each other
    assert abs(np.corrcoef(colours[:, [0, 1, 2, 3, 4, 9]].T)[np.triu_indices(6, 1)]).max() < 0.06


# --- seeds


def drawn(*key: int) -> tuple:
    random = view_generator(*key)
    return draw_crop(random, 500, 400), tuple(draw_colour(random).tolist())


def test_same_seed_epoch_image_and_view_give_the_same_view():
    assert drawn(42, 3, 17, 1) == drawn(42, 3, 17, 1)


def test_any_difference_of_seed_epoch_image_or_view_gives_another_view():
    keys = [(s, e, i, v) for s in (0, 1, 42) for e in (0, 1, 2) for i in (0, 1, 2) for v in (0, 1)]
    views = [drawn(*key) for key in keys]
    assert len(set(views)) == len(keys)


def test_neighbouring_keys_are_uncorrelated():
    rows = np.array([[drawn(0, 1, i, v)[1][1] for v in (0, 1)] for i in range(2000)])
    assert abs(np.corrcoef(rows.T)[0, 1]) < 0.06
    assert abs(np.corrcoef(rows[:-1, 0], rows[1:, 0])[0, 1]) < 0.06


# --- tensors


@pytest.mark.parametrize("shape", [(5, 6, 6, 3), (5, 2, 6, 6, 3)])
def test_to_float_is_torchvisions_to_tensor_of_each_view(shape):
    views = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = to_float(torch.from_numpy(views))
    flat = views.reshape(-1, 6, 6, 3)
    assert images.shape == (math.prod(shape[:-3]), 3, 6, 6) and images.dtype == torch.float32
    for image, view in zip(images, flat, strict=True):
        assert torch.equal(image, to_tensor(view))


def test_normalise_is_torchvisions():
    images, mean, std = torch.rand(4, 3, 5, 6), (0.0418, 0.0353, 0.0409), (0.0956, 0.0911, 0.0769)
    expected = F.normalize(images, list(mean), list(std))
    assert torch.allclose(normalise(images, mean, std), expected, atol=1e-6)
