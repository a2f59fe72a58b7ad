"""A burnt-in scale bar is found at its rows, and no bar where there is none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from thesis_lib.data.datasets import Split
from thesis_lib.data.legend import find_legend

ZOOSCAN = Path(__file__).parents[3] / "shared" / "data" / "zooscan" / "images"


def split_of(folder, images, crop_bottom=0):
    folder.mkdir()
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    files = [f"{number}.png" for number in range(len(images))]
    return Split(folder, files, np.zeros(len(files), dtype=int), crop_bottom)


def organisms(num_images, background=250, bar_in=0):
    """Ellipses on a background; some of them with a bar in rows 4 and 5 from the bottom."""
    random = np.random.default_rng(0)
    for number in range(num_images):
        height, width = random.integers(50, 120, 2)
        y, x = np.mgrid[:height, :width]
        inside = ((y / height - 0.45) / 0.4) ** 2 + ((x / width - 0.5) / 0.45) ** 2 < 1
        pixels = np.full((height, width, 3), background, dtype=np.uint8)
        pixels[inside] = random.integers(60, 180, 3)
        pixels = (pixels + random.normal(0, 3, pixels.shape)).clip(0, 255).astype(np.uint8)
        if number < bar_in:
            pixels[-5:-3, 5:40] = 255 - background
        yield pixels


@pytest.mark.parametrize("background", [250, 5])
def test_a_bar_is_found_at_its_rows_and_not_after_cropping(tmp_path, background):
    images = list(organisms(40, background, bar_in=38))
    found = find_legend(split_of(tmp_path / "a", images))
    assert (found.lowest_row, found.highest_row, found.share) == (4, 5, 0.95)
    assert "--crop-bottom 5 or a little more" in str(found)
    assert find_legend(split_of(tmp_path / "b", images, crop_bottom=5)) is None
    partly = find_legend(split_of(tmp_path / "c", images, crop_bottom=4))
    assert (partly.lowest_row, partly.highest_row) == (5, 5)  # counted from the file's bottom


def test_a_bar_in_the_middle_is_found(tmp_path):
    images = list(organisms(40))
    for pixels in images:
        middle = pixels.shape[1] // 2
        pixels[-8:-6, middle - 15 : middle + 15] = 5
    found = find_legend(split_of(tmp_path / "a", images))
    assert (found.lowest_row, found.highest_row) == (7, 8)


@pytest.mark.parametrize("bar_in", [0, 30])  # of 40
def test_no_bar_is_found_where_most_images_have_none(tmp_path, bar_in):
    assert find_legend(split_of(tmp_path / "a", list(organisms(40, bar_in=bar_in)))) is None


def test_digits_in_the_same_place_are_no_legend(tmp_path):
    digits = load_digits().images[:300].repeat(3, -1).reshape(300, 8, 8, 3)
    images = [(pixels * 255 / 16).astype(np.uint8) for pixels in digits]
    assert find_legend(split_of(tmp_path / "digits", images)) is None
    assert find_legend(split_of(tmp_path / "same", [images[0]] * 3)) is not None  # control


def test_an_image_that_cannot_be_read_is_left_out(tmp_path):
    split = split_of(tmp_path / "a", list(organisms(20, bar_in=20)))
    (tmp_path / "a" / "3.png").write_bytes(b"")
    assert find_legend(split).share == 1


@pytest.mark.skipif(not ZOOSCAN.is_dir(), reason="the ZooScan images are not here")
def test_the_bar_of_zooscan_is_found():
    files = sorted(path.relative_to(ZOOSCAN).as_posix() for path in ZOOSCAN.glob("*/*.jpg"))
    labels = np.zeros(len(files), dtype=int)
    found = find_legend(Split(ZOOSCAN, files, labels))
    assert (found.lowest_row, found.highest_row) == (5, 16) and found.share > 0.95
    assert find_legend(Split(ZOOSCAN, files, labels, crop_bottom=31)) is None
