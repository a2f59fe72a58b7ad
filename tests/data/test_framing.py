"""The evaluation view shows the whole image; random views are crops of the padded square."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from thesis_lib.data import transforms
from thesis_lib.data.framing import (
    MAX_SIDE,
    Frame,
    pad_to_square,
    visible_shares,
)
from thesis_lib.data.organisms import border_color

SIZES = [(1, 1), (3, 2), (18, 70), (40, 800), (12, 3000), (1307, 914), (3, 9000)]  # h, w
PAD = Frame(32, "pad")


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("background", [255, 0, 128])
def test_a_long_chain_is_seen_from_end_to_end_on_its_own_background(background):
    chain = np.full((40, 800, 3), background, dtype=np.uint8)
    chain[5:35, :30] = 60  # its two ends, one of which touches the border
    chain[5:35, -30:] = 200
    view = Frame(224, "pad").evaluation_view(chain)
    assert view.shape == (224, 224, 3)
    assert (view[:100] == background).all() and (view[124:] == background).all()
    assert view[112, 2].tolist() == [60] * 3 and view[112, -3].tolist() == [200] * 3
    cropped = Frame(224, "crop").evaluation_view(chain)
    assert (cropped == background).all()  # neither end


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_images_of_any_size_become_squares(height, width, fit):
    image = noise(height, width)
    if fit == "pad":
        view = PAD.evaluation_view(image)
        assert view.shape == (32, 32, 3) and view.dtype == np.uint8
        square = pad_to_square(image)
        assert square.shape == (min(max(height, width), MAX_SIDE),) * 2 + (3,)
    drawn = transforms.draw_random_numbers(1, 1, [0], 2)
    views = Frame(32, fit).random_views([image], drawn)
    assert views.shape == (2, 32, 32, 3) and views.dtype == torch.uint8


def test_a_square_image_is_only_resized():
    image = noise(50, 50)
    resized = Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(PAD.evaluation_view(image), np.asarray(resized))
    drawn = transforms.draw_random_numbers(1, 1, [0], 3)
    cropped = Frame(32, "crop").random_views([image], drawn)
    assert torch.equal(PAD.random_views([image], drawn), cropped)


def test_random_views_with_pad_are_crops_of_the_padded_square():
    images = [noise(20, 60, seed=1), noise(45, 9, seed=2)]
    drawn = transforms.draw_random_numbers(5, 3, [4, 7], 2)
    views = PAD.random_views(images, drawn)
    squares = [square for image in images for square in [pad_to_square(image)] * 2]
    crops = transforms.draw_crops(drawn, [square.shape[1::-1] for square in squares])
    assert torch.equal(views, transforms.crop_and_resize(squares, crops, 32))
    square = squares[0]
    assert np.array_equal(square[20:40], images[0])
    assert (square[:20] == border_color(images[0])).all()


def test_the_color_of_the_border_is_its_median():
    image = np.full((10, 10, 3), (250, 240, 230), dtype=np.uint8)
    image[:, 3:6] = 0  # an organism from top to bottom: 6 of the 36 outermost pixels
    assert border_color(image).tolist() == [250, 240, 230]
    assert border_color(np.full((1, 1, 3), 7, dtype=np.uint8)).tolist() == [7, 7, 7]


def test_visible_shares_are_those_that_a_marked_image_shows():
    sizes = [(800, 40), (100, 100), (300, 450)]  # w, h
    shares = visible_shares(pd.DataFrame(sizes, columns=["width", "height"]))
    assert shares["pad"].tolist() == [1, 1, 1]
    assert shares["crop"] == pytest.approx([0.0383, 0.7656, 0.5104], abs=1e-4)
    for (width, height), share in zip(sizes, shares["crop"], strict=True):
        column = np.arange(width, dtype=float)[None].repeat(height, 0)
        ramp = (255 * column / (width - 1)).round().astype(np.uint8)  # tells where a pixel was
        view = Frame(224, "crop").evaluation_view(ramp[..., None].repeat(3, 2))[..., 0]
        across = (float(view.max()) - float(view.min())) / 255
        shorter = 224 / 256
        assert across == pytest.approx(share / shorter if width >= height else shorter, abs=0.02)
