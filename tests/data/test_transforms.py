"""Crops, color jitter and the center crop agree with torchvision; random numbers by their seeds."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import CenterCrop, RandomResizedCrop, Resize
from torchvision.transforms.functional import to_tensor
from torchvision.transforms.v2 import functional as F

from thesis_lib.data.transforms import (
    CROP_DRAWS,
    CROP_RATIO,
    CROP_SCALE,
    DRAWS,
    Crop,
    center_crop,
    color_jitter,
    crop_and_resize,
    draw_crops,
    draw_jitter,
    draw_random_numbers,
    normalize,
    to_float,
)

torch.set_num_threads(1)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image with both smooth and fine structure."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([np.sin(x / 9 + c) * np.cos(y / 7 - c) for c in range(3)], 2) * 90 + 120
    return Image.fromarray((smooth + random.normal(0, 20, smooth.shape)).clip(0, 255).astype("u1"))


def test_settings_are_the_recipes():
    from thesis_lib.data import transforms

    assert transforms.CROP_SCALE == (0.2, 1.0)
    assert transforms.JITTER == (0.4, 0.4, 0.4, 0.1)
    assert (transforms.JITTER_PROBABILITY, transforms.GRAYSCALE_PROBABILITY) == (0.8, 0.2)
    assert transforms.EVALUATION_RESIZE == 256 / 224


# --- crops


def crops(n: int, width: int, height: int) -> list[Crop]:
    return draw_crops(draw_random_numbers(0, 1, range(n), 1), [(width, height)] * n)


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


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
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
def test_cut_is_torchvisions_crop_and_resize_within_a_grey_level(crop, size, interpolation):
    image = photo(120, 90)
    box = (crop.top, crop.left, crop.height, crop.width)
    mode = F.InterpolationMode(interpolation)
    expected = F.resized_crop(image, *box, [size, size], mode, antialias=True)
    if crop.flip:
        expected = F.horizontal_flip(expected)
    views = crop_and_resize([np.asarray(image)], [crop], size, interpolation)
    assert views.dtype == torch.uint8 and views.shape == (1, size, size, 3)
    difference = np.abs(views[0].numpy().astype(int) - np.asarray(expected))
    # Both libraries round twice, but at different steps; bicubic weights exceed 1.
    largest = {"bilinear": 1, "bicubic": 2}[interpolation]
    assert difference.max() <= largest and difference.mean() < 0.05


def test_views_of_many_sizes_stand_in_the_order_of_their_images():
    images = [np.asarray(photo(*size)) for size in [(40, 30), (8, 9), (40, 30), (8, 9), (20, 50)]]
    drawn = draw_random_numbers(1, 1, range(5), 1)
    boxes = draw_crops(drawn, [(image.shape[1], image.shape[0]) for image in images])
    boxes[2], boxes[3] = boxes[0]._replace(flip=True), boxes[1]._replace(flip=not boxes[1].flip)
    together = crop_and_resize(images, boxes, 16)
    alone = torch.cat(
        [crop_and_resize([image], [box], 16) for image, box in zip(images, boxes, strict=True)]
    )
    assert torch.equal(together, alone)


def test_crops_of_450_px_pictures_are_torchvisions_within_half_a_grey_level():
    image = photo(450, 450)
    for number, crop in enumerate(crops(50, 450, 450)):
        box = (crop.top, crop.left, crop.height, crop.width)
        expected = F.resized_crop(image, *box, [224, 224], antialias=True)
        if crop.flip:
            expected = F.horizontal_flip(expected)
        view = crop_and_resize([np.asarray(image)], [crop], 224)[0].numpy().astype(int)
        difference = np.abs(view - np.asarray(expected))
        assert difference.max() <= 2 and difference.mean() < 0.5, number
        # Both libraries round twice, but at different steps: seen once in 90 million values.
        assert (difference > 1).mean() < 1e-5, number


# --- evaluation


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [28, 32, 64, 224])
@pytest.mark.parametrize(
    ("width", "height"), [(449, 449), (100, 333), (640, 481), (20, 20), (31, 900), (301, 300)]
)
def test_central_view_is_torchvisions_resize_and_centre_crop(width, height, size, interpolation):
    image = photo(width, height)
    resize = Resize(int(size * 256 / 224), F.InterpolationMode(interpolation))
    expected = CenterCrop(size)(resize(image))
    view = center_crop(np.asarray(image), size, interpolation)
    assert view.shape == (size, size, 3) and view.dtype == np.uint8
    assert np.array_equal(view, np.asarray(expected))


def test_central_view_resizes_to_torchvisions_size_to_the_pixel():
    """Sizes at which width x (256 / height) rounds below a whole number."""
    for short, long in [(644, 1288), (161, 322), (322, 644), (449, 898), (100, 200), (333, 999)]:
        for size in (32, 64, 128, 224):
            image = photo(long, short)
            expected = CenterCrop(size)(Resize(int(size * 256 / 224))(image))
            view = center_crop(np.asarray(image), size)
            assert np.array_equal(view, np.asarray(expected)), (short, size)


# --- jitter


def naive_colour(image: torch.Tensor, drawn: np.ndarray) -> torch.Tensor:
    """Apply torchvision's functions one after the other, with a view's random numbers."""
    jitter, *amounts, first, second, third, fourth, grey = drawn[CROP_DRAWS:].tolist()
    brightness, contrast, saturation = (0.6 + 0.8 * amount for amount in amounts[:3])
    operations = [
        lambda x: F.adjust_brightness(x, brightness),
        lambda x: F.adjust_contrast(x, contrast),
        lambda x: F.adjust_saturation(x, saturation),
        lambda x: F.adjust_hue(x, -0.1 + 0.2 * amounts[3]),
    ]
    if jitter < 0.8:
        for operation in np.argsort((first, second, third, fourth)):
            image = operations[operation](image)
    return F.rgb_to_grayscale(image, num_output_channels=3) if grey < 0.2 else image


def views_of(n: int) -> torch.Tensor:
    images = torch.stack([F.to_dtype(F.to_image(photo(24, 20, i)), scale=True) for i in range(n)])
    images[0], images[1] = 0.0, 1.0
    images[2] = images[2].mean(0)  # without colour
    images[3] = images[3].round()  # the corners of the colour cube
    return images


def test_change_colour_is_torchvisions_in_the_drawn_order():
    images, drawn = views_of(200), draw_random_numbers(3, 1, range(200), 1)
    original = images.clone()
    changed = color_jitter(images, draw_jitter(drawn))
    expected = torch.stack([naive_colour(*pair) for pair in zip(images, drawn, strict=True)])
    assert len(np.unique(drawn[:, -5:-1].argsort(1), axis=0)) == 24  # every order occurs
    assert (changed - expected).abs().max() < 1e-5
    assert torch.equal(images, original)
    assert changed.min() >= 0 and changed.max() <= 1


@pytest.mark.parametrize("operation", range(4), ids=["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("drawn_amount", [0.0, 0.999])
def test_each_operation_alone_is_torchvisions(operation, drawn_amount):
    images = views_of(12)
    drawn = np.full((12, DRAWS), 0.5)  # factors of 1 and no shift of hue
    drawn[:, CROP_DRAWS + 1 + operation] = drawn_amount
    expected = torch.stack([naive_colour(*pair) for pair in zip(images, drawn, strict=True)])
    assert (expected[4:] - images[4:]).abs().max() > 0.01
    assert (color_jitter(images, draw_jitter(drawn)) - expected).abs().max() < 1e-5


def test_a_view_without_jitter_or_grey_stays_as_it_is():
    images, drawn = views_of(20), draw_random_numbers(3, 1, range(20), 1)
    drawn[:, CROP_DRAWS], drawn[:, -1] = 0.9, 0.9
    assert torch.equal(color_jitter(images, draw_jitter(drawn)), images)


def test_a_views_colour_does_not_depend_on_its_batch():
    images, drawn = views_of(16), draw_random_numbers(3, 1, range(16), 1)
    whole = color_jitter(images, draw_jitter(drawn))
    rows = (slice(i, i + 1) for i in range(16))
    alone = torch.cat([color_jitter(images[row], draw_jitter(drawn[row])) for row in rows])
    assert (whole - alone).abs().max() < 1e-6


def test_colours_are_drawn_with_the_recipes_frequencies_and_ranges():
    n = 4000
    jitter = draw_jitter(draw_random_numbers(0, 1, range(n), 1))
    share, hue, grey = jitter.share.numpy(), jitter.hue_turns.numpy(), jitter.grey.numpy()
    assert stats.binomtest(sum(jitter.hue_counts), n, 0.8).pvalue > 0.01
    assert stats.binomtest(int(grey.sum()), n, 0.2).pvalue > 0.01
    assert stats.kstest(hue, stats.uniform(-0.1, 0.2).cdf).pvalue > 0.01
    assert len(set(jitter.hue_views.tolist())) == len(hue)  # once per view
    contrast, saturation = jitter.to_mean.numpy() > 0, jitter.to_grey.numpy() > 0
    assert (contrast.sum(0) == 1).all() and (saturation.sum(0) == 1).all()
    assert not (contrast & saturation).any()
    for chosen in (contrast, saturation, (share != 1) & ~contrast & ~saturation):
        changed = share[chosen & (share != 1)]
        assert stats.binomtest(len(changed), n, 0.8).pvalue > 0.01
        assert stats.kstest(changed, stats.uniform(0.6, 0.8).cdf).pvalue > 0.01
        # every step is equally likely
        assert stats.chisquare((chosen & (share != 1)).sum(1)).pvalue > 0.01


# --- seeds


def numbers(seed: int, epoch: int, image: int, view: int) -> tuple:
    return tuple(draw_random_numbers(seed, epoch, [image], view + 1)[view].tolist())


def test_numbers_of_a_view_do_not_depend_on_the_other_images_or_views():
    images = [17, 3, 2, 40_000, 3]
    rows = draw_random_numbers(42, 3, images, 4).reshape(5, 4, DRAWS)
    for image, views in zip(images, rows, strict=True):
        for view, row in enumerate(views):
            assert numbers(42, 3, image, view) == tuple(row.tolist())


def test_any_difference_of_seed_epoch_image_or_view_gives_other_numbers():
    keys = [(s, e, i, v) for s in (0, 1, 42) for e in (0, 1, 2) for i in (0, 1, 2) for v in (0, 1)]
    found = [number for key in keys for number in numbers(*key)]
    assert len(set(found)) == len(keys) * DRAWS


def test_numbers_are_uniform_and_those_of_neighbours_uncorrelated():
    n = 2000
    rows = draw_random_numbers(0, 1, range(n), 2).reshape(n, 2, DRAWS)
    later = draw_random_numbers(0, 2, range(n), 2).reshape(n, 2, DRAWS)
    assert stats.kstest(rows.ravel(), stats.uniform.cdf).pvalue > 0.01
    for one, other in (
        (rows[:, 0], rows[:, 1]),  # views
        (rows[:-1, 0], rows[1:, 0]),  # images
        (rows[:, 0], later[:, 0]),  # epochs
        (rows[:, 0, :-1], rows[:, 0, 1:]),  # numbers of a view
    ):
        size = one.size
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / math.sqrt(size)


# --- tensors


def test_to_float_is_torchvisions_to_tensor_of_each_view():
    views = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    images = to_float(torch.from_numpy(views))
    assert images.shape == (5, 3, 6, 6) and images.dtype == torch.float32
    for image, view in zip(images, views, strict=True):
        assert torch.equal(image, to_tensor(view))


def test_normalise_is_torchvisions():
    images, mean, std = torch.rand(4, 3, 5, 6), (0.0418, 0.0353, 0.0409), (0.0956, 0.0911, 0.0769)
    expected = F.normalize(images, list(mean), list(std))
    normalised = normalize(images, mean, std)
    assert torch.allclose(normalised, expected, atol=1e-6)
    assert normalised.is_contiguous(memory_format=torch.channels_last)
