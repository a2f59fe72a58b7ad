"""The organism is found on any plain background; area and axes are those of ZooProcess."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from thesis_lib.data.images import read_pixels
from thesis_lib.data.organisms.finding import find_organism

ZOOSCAN = Path(__file__).parents[4] / "shared" / "data" / "zooscan"


def ellipse(major, minor, angle=0.0, background=250, inside=120, noise=2.0):
    """An image (120, 160, 3) of a filled ellipse, and the mask of the ellipse."""
    y, x = np.mgrid[:120, :160] - np.array([60, 80])[:, None, None]
    along, across = (x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle))
    mask = (along / (major / 2)) ** 2 + (across / (minor / 2)) ** 2 < 1
    grey = np.where(mask, inside, background).astype(float)
    grey += np.random.default_rng(0).normal(0, noise, grey.shape)
    return grey.clip(0, 255).round().astype(np.uint8)[..., None].repeat(3, 2), mask


@pytest.mark.parametrize(("background", "inside"), [(250, 120), (5, 200), (128, 60), (128, 230)])
@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_an_ellipse_is_found_with_its_axes(background, inside, angle):
    image, mask = ellipse(100, 30, angle, background, inside)
    found = find_organism(image)
    assert (found.mask != mask).mean() < 0.005
    assert found.major == pytest.approx(100, rel=0.02) and found.minor == pytest.approx(
        30, rel=0.04
    )
    assert found.area == found.mask.sum()
    assert np.pi / 4 * found.major * found.minor == pytest.approx(found.area)
    top, left, bottom, right = found.box
    assert found.mask[top:bottom, left:right].sum() == found.area
    assert found.mask[top].any() and found.mask[:, right - 1].any()


def test_holes_are_filled_and_specks_left_out_but_large_parts_belong_to_it():
    image, mask = ellipse(100, 40, noise=0)
    hollow, _ = ellipse(60, 20, noise=0)
    image[hollow[..., 0] == 120] = 250  # a transparent middle
    image[5:8, 5:8] = 0  # a speck of 9 pixels
    assert np.array_equal(find_organism(image).mask, mask)
    image[100:118, 10:50] = 100  # a second part: 720 pixels, of some 3,100
    assert find_organism(image).area == mask.sum() + 720


def test_a_faint_organism_is_found():
    image, mask = ellipse(80, 50, background=250, inside=238, noise=0.5)
    assert (find_organism(image).mask != mask).mean() < 0.01


@pytest.mark.parametrize("shape", [(40, 60), (1, 1), (1, 50)])
def test_nothing_is_found_where_nothing_is(shape):
    assert find_organism(np.full((*shape, 3), 250, dtype=np.uint8)) is None


def test_a_line_of_pixels_has_no_width_but_does_no_harm():
    image = np.full((3, 50, 3), 250, dtype=np.uint8)
    image[1, 10:20] = 0
    assert find_organism(image[:, :12]) is None  # two pixels are noise
    found = find_organism(image)
    assert found.area == 10 and found.box == (1, 10, 2, 20) and np.isfinite(found.major)


@pytest.mark.skipif(not ZOOSCAN.is_dir(), reason="the ZooScan images are not here")
def test_area_and_axes_are_those_that_zooprocess_measured():
    measured = pd.read_csv(ZOOSCAN / "zooprocess_features.csv.gz").set_index("id")
    files = sorted((ZOOSCAN / "images").glob("*/*.jpg"))[::4]
    found = [find_organism(read_pixels(file, crop_bottom=31)) for file in files]
    theirs = measured.loc[[int(file.stem) for file in files]]
    for name in ("area", "major", "minor"):
        ours = np.array([getattr(organism, name) for organism in found])
        assert np.corrcoef(ours, theirs[name])[0, 1] > 0.99999
        assert np.median(np.abs(ours / theirs[name] - 1)) < 0.001
