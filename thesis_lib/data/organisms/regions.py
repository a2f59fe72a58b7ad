"""Measure an organism as plankton researchers did before deep learning: size, shape, grey, texture.

With ``method = "regions"``, these numbers take the place of a backbone's features.
"""

import numpy as np
from numpy.typing import ArrayLike

from thesis_lib.data.organisms.finding import Organism, border_color, find_organism

BLUE = (190, 215, 240)
GREY_LEVELS = 16  # of the co-occurrence matrices; level 0 is the background
DISTANCES = (1, 3)  # px, between the pixels that co-occur
TEXTURES = ("contrast", "homogeneity", "energy", "correlation", "entropy")
PERCENTILES = (5, 25, 50, 75, 95)
SHAPES = (
    *("log_area", "log_convex_area", "log_major", "log_minor", "log_perimeter", "log_feret"),
    *("log_box_long", "log_box_short", "eccentricity", "elongation", "solidity", "extent"),
    *("circularity", "log_components", *(f"hu_{i}" for i in range(1, 8))),
)
GREYS = (
    *("background", "mean", "std", "log_skewness", "log_kurtosis", "minimum", "maximum"),
    *(f"percentile_{q}" for q in PERCENTILES),
    *("red_contrast", "green_contrast", "blue_contrast", "centroid_shift"),
)
NAMES = (*SHAPES, *GREYS, *(f"{name}_{d}px" for d in DISTANCES for name in TEXTURES))


def organism_alone(image: np.ndarray) -> np.ndarray:
    """Return an image (h, w, 3) uint8 in which everything but the organism is light blue."""
    found = find_organism(image)
    mask = np.zeros(image.shape[:2], bool) if found is None else found.mask
    return np.where(mask[..., None], image, np.array(BLUE, dtype=np.uint8))


def region_properties(image: np.ndarray) -> np.ndarray:
    """Measure the organism in an image: one number for each of ``NAMES``.

    Lengths and areas are in px, grey values from 0 to 1. Numbers that range over orders of
    magnitude are sign(x) log10(1 + |x|). The co-occurrence matrices (Haralick et al. 1973) count
    pairs of pixels of the organism in four directions.

    Args:
        image: (h, w, 3) uint8, without a legend.

    Returns:
        (len(NAMES),) float32; all 0 if no organism is found.
    """
    found = find_organism(image)
    if found is None:
        return np.zeros(len(NAMES), dtype=np.float32)
    top, left, bottom, right = found.box
    mask = found.mask[top:bottom, left:right]
    color = image[top:bottom, left:right].astype(np.float64) / 255
    background = border_color(image) / 255
    values = [*_shape(found, mask), *_greys(color, mask, background), *_textures(color, mask)]
    return np.nan_to_num(np.array(values), posinf=0, neginf=0).astype(np.float32)


def _shape(found: Organism, mask: np.ndarray) -> list[float]:
    from skimage.measure import label, regionprops

    (region,) = regionprops(mask.astype(np.uint8))
    sides = sorted(mask.shape)
    lengths = [region.area_convex, found.major, found.minor, region.perimeter_crofton]
    lengths = [found.area, *lengths, region.feret_diameter_max, sides[1], sides[0]]
    circularity = 4 * np.pi * found.area / max(region.perimeter_crofton, 1) ** 2
    return [
        *_log(lengths),
        region.eccentricity,
        found.minor / found.major if found.major else 0.0,
        region.solidity,
        region.extent,
        circularity,
        _log(label(mask, connectivity=2).max()),
        *_log(1e6 * np.array(region.moments_hu)),
    ]


def _greys(color: np.ndarray, mask: np.ndarray, background: np.ndarray) -> list[float]:
    from scipy.stats import kurtosis, skew

    grey = color.mean(2)
    inside = grey[mask]
    contrast = np.where(mask, np.abs(grey - background.mean()), 0)
    rows, columns = np.nonzero(mask)
    weights = contrast[mask] / max(contrast.sum(), 1e-9)
    shift = np.hypot(
        weights @ rows - rows.mean(), weights @ columns - columns.mean()
    )  # from the centroid of the mask to that of the contrast
    spread = inside.std() > 1e-6  # otherwise, skewness is rounding noise
    return [
        background.mean(),
        *(inside.mean(), inside.std()),
        *(_log([skew(inside), kurtosis(inside)]) if spread else (0.0, 0.0)),
        *(inside.min(), inside.max()),
        *np.percentile(inside, PERCENTILES),
        *(color[mask].mean(0) - background),
        shift / np.sqrt(mask.sum()),
    ]


def _textures(color: np.ndarray, mask: np.ndarray) -> list[float]:
    from skimage.feature import graycomatrix, graycoprops

    grey = color.mean(2)
    levels = np.where(mask, 1 + (grey * (GREY_LEVELS - 2)).round(), 0).astype(np.uint8)
    angles = np.arange(4) * np.pi / 4
    pairs = graycomatrix(levels, DISTANCES, angles, GREY_LEVELS, symmetric=True)[1:, 1:]
    pairs = pairs.sum(3, keepdims=True)  # in all directions, as an organism may lie in any
    contrast, *others = (graycoprops(pairs, name)[:, 0] for name in TEXTURES)
    return list(np.stack([_log(contrast), *others], axis=1).ravel())


def _log(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return np.sign(values) * np.log10(1 + np.abs(values))
