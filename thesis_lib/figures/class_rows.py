"""Axes with a row for each class, in as many columns as the page needs."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thesis_lib.figures.axes import plain_log_ticks
from thesis_lib.figures.layout import shorten, subplots
from thesis_lib.figures.style import PAGE_HEIGHT_MM, POINT, TICK, TINY, text_width

LEAST_PITCH_MM, MOST_COLUMNS = 2.35, 3


def class_panels(num_classes: int, frame: float) -> tuple[Figure, list[Axes], int, float]:
    """Return a figure with axes side by side, which share their x axis.

    Args:
        num_classes: number of classes to show; not all of them may fit.
        frame: height of what stands above and below the rows, mm.

    Returns:
        The figure, its axes, the number of rows of each, and the height of a row in mm.
    """
    most = int((PAGE_HEIGHT_MM - frame) // LEAST_PITCH_MM)
    columns = min(MOST_COLUMNS, -(-num_classes // most))
    rows = min(most, -(-num_classes // columns))
    pitch = float(np.clip((PAGE_HEIGHT_MM - frame) / rows, LEAST_PITCH_MM, 4.5))
    figure, panels = subplots(frame + pitch * rows, ncols=columns, sharex=True, squeeze=False)
    return figure, list(panels[0]), rows, pitch


def name_rows(axes: Axes, names: Sequence[object], rows: int, pitch: float, columns: int) -> None:
    """Write the name of each class at its row, and give a shared log axis its ticks.

    Args:
        axes: those of a column, whose x axis has its limits.
        names: the classes of this column, from the top.
        rows: number of rows of a column.
        pitch: height of a row, mm.
        columns: number of columns on the page.
    """
    width = text_width() / columns
    size = float(np.clip(0.8 * pitch / POINT, TINY, TICK))
    shown = [shorten(str(name), 0.45 * width, size) for name in names]
    axes.set_yticks(np.arange(len(names)), shown, fontsize=size)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(rows - 0.3, -0.7)
    if axes.get_xscale() == "log":
        plain_log_ticks(axes.xaxis, max(2, int(0.05 * width)))
    axes.xaxis.grid(True, color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
