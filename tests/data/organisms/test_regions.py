"""Region properties: those of known shapes, any orientation, and as good as ZooProcess's."""

import numpy as np
import pandas as pd
import pytest
from skimage.measure import regionprops
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score

from tests.data.organisms.test_finding import ZOOSCAN, ellipse
from thesis_lib.config import RunConfig
from thesis_lib.data.datasets import open_dataset
from thesis_lib.data.images import read_pixels
from thesis_lib.data.loaders import example_views
from thesis_lib.data.organisms.regions import BLUE, NAMES, organism_alone, region_properties


def named(image):
    return dict(zip(NAMES, region_properties(image).tolist(), strict=True))


def test_an_ellipse_has_its_size_shape_and_grey():
    image, mask = ellipse(100, 40, inside=100, noise=0)
    found, (region,) = named(image), regionprops(mask.astype(int))
    assert 10 ** found["log_area"] - 1 == pytest.approx(np.pi / 4 * 100 * 40, rel=0.02)
    assert 10 ** found["log_major"] - 1 == pytest.approx(100, rel=0.02)
    assert found["elongation"] == pytest.approx(0.4, rel=0.02)
    assert found["eccentricity"] == pytest.approx(np.sqrt(1 - 0.4**2), rel=0.01)
    assert found["extent"] == pytest.approx(np.pi / 4, rel=0.03)
    assert found["solidity"] == pytest.approx(region.solidity, abs=0.01)
    assert found["hu_1"] == pytest.approx(np.log10(1 + 1e6 * region.moments_hu[0]), rel=0.01)
    assert found["mean"] == pytest.approx(100 / 255, abs=0.01)
    assert found["background"] == pytest.approx(250 / 255, abs=0.001)
    assert found["log_kurtosis"] == found["log_skewness"] == 0
    assert found["centroid_shift"] == pytest.approx(0)
    assert found["contrast_1px"] == found["entropy_1px"] == 0  # it is of a single grey


def test_a_circle_is_more_circular_than_an_ellipse():
    circularity = [named(ellipse(80, minor)[0])["circularity"] for minor in (80, 40, 20)]
    assert circularity[0] == pytest.approx(1, abs=0.05)
    assert circularity[0] > circularity[1] > circularity[2]


def test_texture_and_color_are_measured_within_the_organism():
    flat, mask = ellipse(100, 60, noise=0)
    board = np.indices(mask.shape).sum(0) % 2 * 100
    rough = flat.copy()
    rough[mask] += board[mask, None].astype(np.uint8)
    assert named(rough)["contrast_1px"] > 1 > named(flat)["contrast_1px"]
    red = flat.copy()
    red[mask] = 200, 80, 80
    found = named(red)
    assert found["red_contrast"] > found["green_contrast"] == pytest.approx(found["blue_contrast"])


def test_they_do_not_depend_on_how_the_organism_lies():
    image, _ = ellipse(90, 30, angle=0.5)
    for turned in (np.rot90(image), image[::-1], image[:, ::-1]):
        assert region_properties(turned) == pytest.approx(region_properties(image), abs=0.02)


@pytest.mark.parametrize("shape", [(1, 1), (70, 18), (12, 3000), (1307, 914), (2, 2)])
def test_they_are_finite_for_images_of_any_size(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    assert np.isfinite(region_properties(noise)).all()
    line = np.full((*shape, 3), 255, np.uint8)
    line[shape[0] // 2] = 0  # an organism that is one pixel high
    assert np.isfinite(region_properties(line)).all()


def test_an_empty_image_has_none():
    empty = np.full((40, 50, 3), 200, np.uint8)
    assert not region_properties(empty).any()
    assert (organism_alone(empty) == BLUE).all()


def test_the_views_show_what_is_measured(workbook):
    config = RunConfig(data="data/tiny", method="regions")
    shown = example_views(open_dataset(config.data), config, num_images=3)
    assert shown["views"] == [] and len(shown["evaluation"]) == len(shown["names"]) == 3
    for original, alone in zip(shown["originals"], shown["evaluation"], strict=True):
        is_organism = (alone != BLUE).any(-1)
        assert is_organism.any() and (original[is_organism] == alone[is_organism]).all()


@pytest.mark.skipif(not ZOOSCAN.is_dir(), reason="the ZooScan images are not on this machine")
def test_a_forest_on_them_is_as_accurate_as_on_those_of_zooprocess():
    theirs = pd.read_csv(ZOOSCAN / "zooprocess_features.csv.gz")
    files = {path.stem: path for path in (ZOOSCAN / "images").glob("*/*.jpg")}
    ours = np.array([region_properties(read_pixels(files[str(i)], 31)) for i in theirs["id"]])
    area = 10 ** ours[:, NAMES.index("log_area")] - 1
    assert np.corrcoef(np.log(area), np.log(theirs["area"]))[0, 1] > 0.95
    labels = theirs.pop("label").to_numpy()
    features = {"ours": ours, "theirs": theirs.drop(columns="id").fillna(0).to_numpy()}
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    forest = RandomForestClassifier(300, random_state=0)
    scores = {
        name: cross_val_score(forest, values, labels, cv=folds).mean()
        for name, values in features.items()
    }
    assert scores["ours"] > 0.75  # 25 % by chance
    assert scores["ours"] > scores["theirs"] - 0.02
