"""Check the heights of a split's images, and measure their organisms in millimetres."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from thesis_lib.data.images import image_height, read_pixels
from thesis_lib.data.organisms import find_organism
from thesis_lib.data.sources.listing import Listing
from thesis_lib.errors import InputError, first_few, nearest
from thesis_lib.system import machine
from thesis_lib.system.progress import track
from thesis_lib.system.threads import map_in_threads

MAJOR_AXIS = "major_axis_mm"  # column of manifest.csv
# In micrometres; some exports, such as those of UVP5, give millimetres.
LEAST_PIXEL_SIZE = 0.25


def measure_sizes(
    listing: Listing, files: Mapping[str, Sequence[str]], pixel_size: str, crop_bottom: int
) -> None:
    """Add the major axis of each organism to the listing's facts, see ``MAJOR_AXIS``.

    The column stays empty where the image cannot be read, shows no organism, or has no pixel
    size. Prints the median and the range, so that a wrong unit shows.

    Args:
        listing: the source.
        files: class -> files to measure.
        pixel_size: micrometres per pixel, or the column of the listing's facts that holds them.
        crop_bottom: rows to cut off the bottom of each image.

    Raises:
        InputError: if the pixel size is neither a positive number nor a column.
    """
    size_of = _pixel_sizes(listing, pixel_size)
    images = [(name, file) for name, found in files.items() for file in found]

    def measure(image: tuple[str, str]) -> float:
        name, file = image
        try:
            found = find_organism(read_pixels(listing.files[name][file], crop_bottom))
        except InputError:  # notebook 01 lists unreadable images
            return math.nan
        return found.major * size_of(name, file) / 1000 if found else math.nan

    results = map_in_threads(measure, images, machine.num_cores())
    measured = list(track(results, len(images), "sizes", "image"))
    for image, length in zip(images, measured, strict=True):
        text = f"{length:.4g}" if math.isfinite(length) else ""
        listing.facts[image] = listing.facts.get(image, {}) | {MAJOR_AXIS: text}
    known = [length for length in measured if math.isfinite(length)]
    if not known:
        raise InputError(
            f"--pixel-size {pixel_size} gives no size: no image shows an organism on a plain "
            "background, or the column is empty; leave the option out"
        )
    print(
        f"major axis of {len(known):,} of {len(images):,} organisms: median "
        f"{np.median(known):.3g} mm, from {min(known):.3g} to {max(known):.3g} mm",
        flush=True,
    )


def check_rows_left(listing: Listing, files: Mapping[str, Sequence[str]], crop_bottom: int) -> None:
    """Check that every image is higher than the rows to cut off its bottom.

    Args:
        listing: the source.
        files: class -> files of the split.
        crop_bottom: rows to cut off.

    Raises:
        InputError: if not. Files that cannot be read are left to notebook 01.
    """
    if not crop_bottom:
        return
    paths = [listing.files[name][file] for name, found in files.items() for file in found]
    found_heights = map_in_threads(image_height, paths, machine.num_cores())
    heights = dict(zip(paths, found_heights, strict=True))
    known = {str(path): height for path, height in heights.items() if height is not None}
    too_low = [path for path, height in known.items() if height <= crop_bottom]
    if too_low:
        raise InputError(
            f"--crop-bottom {crop_bottom} leaves no row of {len(too_low):,} of {len(paths):,} "
            f"images ({first_few(too_low)}); the lowest has {min(known.values())} rows: cut off "
            "fewer, or take these images out of the source"
        )


def _pixel_sizes(listing: Listing, asked: str) -> Callable[[str, str], float]:
    """Return a function of class and file that gives micrometres per pixel, or NaN."""
    constant = _number(asked)
    if constant > 0:
        return lambda name, file: constant
    if asked not in listing.columns:
        listed = f"; the columns are {', '.join(listing.columns)}" if listing.columns else ""
        raise InputError(
            f"--pixel-size {asked} is neither a number of micrometres nor a column of "
            f"{listing.root}{nearest(asked, listing.columns) or listed}"
        )
    values = [_number(facts.get(asked, "")) for facts in listing.facts.values()]
    known = [value for value in values if math.isfinite(value)]
    if known and np.median(known) < LEAST_PIXEL_SIZE:
        raise InputError(
            f"the median of {asked} is {np.median(known):g}, which looks like millimetres; give "
            f"micrometres per pixel as a number, such as --pixel-size {1000 * np.median(known):g}"
        )
    return lambda name, file: _number(listing.facts[name, file].get(asked, ""))


def is_number(text: str) -> bool:
    """Return whether a pixel size is given as a number, and not as the name of a column."""
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _number(text: str) -> float:
    """Return a positive number, also with a decimal comma; NaN if the text is none."""
    value = float(text.replace(",", ".")) if is_number(text) else math.nan
    return value if 0 < value < math.inf else math.nan
