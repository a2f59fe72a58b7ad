"""The layout of a figure: empty figures and canvases, fitting text, and thumbnails."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import count
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase, SubFigure
from matplotlib.textpath import text_to_path
from PIL import Image

from thesis_lib.figures.style import (
    BODY,
    INCH,
    PAGE_HEIGHT_MM,
    POINT,
    SAVED_DPI,
    TINY,
    class_numbers,
    figure_size,
    text_width,
)

READABLE_MM = 25.0  # narrowest column of a class key: about twenty letters


def _figure(height: float, layout: str | None = "constrained") -> Figure:
    """Return an empty figure of the text width and the given height (mm), closed in pyplot."""
    # Created by pyplot rather than by Figure(), so that a notebook can display it.
    figure = plt.figure(figsize=figure_size(1.0, height / text_width()), layout=layout)
    plt.close(figure)
    return figure


def subplots(height: float, **panels: Any) -> tuple[Figure, Any]:
    """Return a figure of the text width and the given height (mm), and its axes.

    panels: keyword arguments of ``Figure.subplots``.
    """
    figure = _figure(height)
    return figure, figure.subplots(**panels)


def _canvas(parent: FigureBase, width: float, height: float) -> Axes:
    """Return axes that cover a (sub)figure, in millimetres from its top left corner."""
    limits: dict[str, Any] = {"xlim": (0, width), "ylim": (height, 0), "autoscale_on": False}
    axes = parent.add_axes((0, 0, 1, 1), **limits)
    axes.set_axis_off()
    return axes


def page(height: float) -> tuple[Figure, Axes]:
    """Return an empty figure of the text width and the given height (mm), and its canvas in mm."""
    figure = _figure(height + 1, layout=None)
    canvas = _canvas(figure, text_width(), height)
    canvas.set_ylim(height + 0.5, -0.5)  # letters reach slightly beyond their line
    return figure, canvas


def figure_over_key(height: float, classes: Sequence[str]) -> tuple[Figure, SubFigure]:
    """Return a figure with a class key at the bottom, and the subfigure above the key.

    The key lists the number and name of each class; without classes there is no key. If the
    figure does not fit a page, names are shortened as little as possible. If they would become
    too short to read, the subfigure is made smaller than `height` instead.

    height: of the subfigure, in millimetres.
    """
    numbers = class_numbers(classes)
    names = [
        name[len(number) :] if name.startswith(number) else f"  {name}"
        for number, name in zip(numbers, classes, strict=True)
    ]
    width, line = text_width(), 1.2 * TINY * POINT

    def fits(above: float, columns: int) -> bool:
        return above + -(-len(classes) // columns) * line + 2 <= PAGE_HEIGHT_MM

    numbered = zip(numbers, names, strict=True)
    widest = max((printed_width(number + name, TINY) for number, name in numbered), default=width)
    unshortened = max(1, int(width // (widest + 3)))
    readable = max(unshortened, int(width // READABLE_MM))
    options = range(unshortened, readable + 1)
    columns = next((n for n in options if fits(height, n)), readable)
    columns = next(n for n in count(columns) if fits(height / 2, n))
    rows = -(-len(classes) // columns)
    key = rows * line + 2
    height = min(height, PAGE_HEIGHT_MM - key)
    figure = _figure(height + key)
    subfigures: Any = figure.subfigures(2, 1, height_ratios=[height, key])
    above, below = subfigures
    canvas = _canvas(below, width, key)
    for i, (number, name) in enumerate(zip(numbers, names, strict=True)):
        x, y = i // rows * width / columns, i % rows * line
        name = shorten(name, width / columns - 3.5 - printed_width(number, TINY), TINY)
        canvas.text(x + 1, y, number + name, size=TINY, va="top")
    return figure, above


def printed_width(text: str, size: float) -> float:
    """Return the printed width of a line of text in millimetres; size: in points."""
    font = font_manager.FontProperties(size=size)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] * POINT


def shorten(text: str, width: float, size: float) -> str:
    """Cut out the middle of a text until it fits a width in millimetres.

    Both ends are kept, because they are the most distinctive parts of class names.
    """
    shortened, keep = text, len(text)
    while printed_width(shortened, size) > width and keep > 2:
        keep -= 1
        shortened = text[: (keep + 1) // 2] + "…" + text[len(text) - keep // 2 :]
    return shortened


def wrap(text: str, width: float, size: float, max_lines: int) -> list[str]:
    """Wrap a text after spaces, "_", "-" or "/" to lines of a width (mm).

    Words are not broken. A word wider than a line, or the last line, is shortened.
    """
    if max_lines == 1 or printed_width(text, size) <= width:
        return [shorten(text, width, size)]
    fits = bisect_right(range(1, len(text)), width, key=lambda end: printed_width(text[:end], size))
    gaps = [i + 1 for i in range(len(text) - 1) if text[i] in " _-/" and text[i + 1] != "%"]
    end = max((gap for gap in gaps if gap <= fits), default=min(gaps, default=len(text)))
    line = shorten(text[:end].rstrip(), width, size)
    return [line, *wrap(text[end:], width, size, max_lines - 1)] if text[end:] else [line]


def beside(words: str, panels: int = 2) -> str:
    """Break the title or label of one of several panels into lines that fit the panel."""
    return "\n".join(wrap(words, 0.78 * text_width() / panels, BODY, max_lines=3))


def thumbnail_grid(
    num_cells: int, num_images: int, text: float, largest: float
) -> tuple[int, float]:
    """Return the number of columns that gives the largest thumbnails on a page, and their side.

    Args:
        num_cells: cells on the page.
        num_images: thumbnails side by side in each cell.
        text: height of the text above or below each cell's thumbnails, in millimetres.
        largest: upper limit of a thumbnail's side, in millimetres.

    Returns:
        The number of columns of cells, and the side of a thumbnail in millimetres.
    """
    sides = {}
    for columns in range(1, num_cells + 1):
        across = (text_width() / columns - 2) / num_images - 0.5
        down = (PAGE_HEIGHT_MM - 1) / -(-num_cells // columns) - text
        sides[columns] = max(min(across, down, largest), 2.0)
    return max(sides.items(), key=lambda item: (item[1], item[0]))


def draw_image(canvas: Axes, image: np.ndarray, x: float, y: float, side: float) -> None:
    """Draw an image in a square of a canvas, left-aligned and vertically centred.

    The aspect ratio is kept. x, y: top left corner of the square; side: of the square (all mm).
    """
    longest = max(image.shape[:2])
    height, width = side * np.array(image.shape[:2]) / longest
    y += (side - height) / 2
    # Averaging blocks of pixels first is much faster than letting matplotlib do all the shrinking.
    block = max(1, round(longest / (side / INCH * SAVED_DPI)))
    if block > 1:  # a narrow image may be thinner than a block
        factors = min(block, image.shape[1]), min(block, image.shape[0])
        image = np.asarray(Image.fromarray(image).reduce(factors))
    canvas.imshow(image, extent=(x, x + width, y + height, y), aspect="auto")
