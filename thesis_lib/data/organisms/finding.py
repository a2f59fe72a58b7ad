"""Find the organism on the background of an image: its mask, box, area and axes."""

from dataclasses import dataclass

import numpy as np

LEAST_CONTRAST = 5.0  # grey levels; an image that differs less from its background is empty
LEAST_AREA = 3  # px; below, it is noise and has no axes
LARGE_SHARE = 0.1  # components of at least this share of the largest one's area belong to it


@dataclass(frozen=True)
class Organism:
    """An organism in an image; lengths in px.

    Args:
        mask: (h, w) booleans, holes filled.
        box: top, left, bottom, right: the rows and columns of ``image[top:bottom, left:right]``.
        area: number of pixels of the mask.
        major, minor: axes of the ellipse that has the mask's second moments and its area, as
            ImageJ and ZooProcess define them.
    """

    mask: np.ndarray
    box: tuple[int, int, int, int]
    area: int
    major: float
    minor: float


def border_color(image: np.ndarray) -> np.ndarray:
    """Return the median color of an image's outermost pixels, (3,) uint8.

    Its background: white, black or grey. A median, because the organism may touch the border.
    """
    edges = (image[0], image[-1], image[1:-1, 0], image[1:-1, -1])
    return np.median(np.concatenate(edges), axis=0).astype(np.uint8)


def find_organism(image: np.ndarray) -> Organism | None:
    """Find the organism on a plain background, whether that is white, black or grey.

    The background is the median color of the image's border. The contrast to it is thresholded
    by the triangle method (Zack et al. 1977), which suits a large background and also finds
    transparent organisms. The largest component and those of a tenth of its area are taken.

    Args:
        image: (h, w, 3) uint8, without a legend.

    Returns:
        The organism; None if nothing differs from the background.
    """
    from scipy import ndimage
    from skimage.filters import threshold_triangle
    from skimage.measure import label, regionprops

    contrast = np.abs(image.astype(np.float32) - border_color(image)).mean(2)  # (h, w)
    if contrast.max() < LEAST_CONTRAST:
        return None
    threshold = max(float(threshold_triangle(contrast)), LEAST_CONTRAST)
    components = label(contrast > threshold, connectivity=2)
    areas = np.bincount(components.ravel())
    areas[0] = 0  # the background
    if areas.max() < LEAST_AREA:
        return None
    mask = (areas >= LARGE_SHARE * areas.max())[components] & (components > 0)
    mask = ndimage.binary_fill_holes(mask)
    (found,) = regionprops(mask.astype(np.uint8))
    # Scaled to the area of the mask; an ellipse of a single row of pixels has no area.
    major, minor = found.axis_major_length, found.axis_minor_length
    scale = np.sqrt(found.area / (np.pi / 4 * major * minor)) if minor else 1.0
    return Organism(mask, found.bbox, int(found.area), float(major * scale), float(minor * scale))
