"""Ticks, legends, colour bars and point labels for the axes of a figure."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullFormatter

from thesis_lib.figures.layout import printed_width
from thesis_lib.figures.style import POINT, TICK, TINY, text_width


def legend(figure: Figure, axes: Axes, side: str) -> None:
    """Place a legend outside the axes, if there is anything to list.

    side: "upper" or "lower".
    """
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = int(text_width() // (max(printed_width(label, TICK) for label in labels) + 12))
        columns = min(max(columns, 1), len(labels))
        figure.legend(handles, labels, loc=f"outside {side} center", ncols=columns)


class _PercentFormatter(Formatter):
    """Format fractions as percentages, with just enough decimals for every tick."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return self.format_ticks([x])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Format all ticks with the same number of decimals."""
        percents = [round(100 * value, 4) + 0.0 for value in values]  # + 0.0 turns -0 into 0
        decimals = max((len(f"{value:g}".partition(".")[2]) for value in percents), default=0)
        return [f"{value:.{decimals}f} %" for value in percents]


def percent_ticks(axis: Axis) -> None:
    """Label an axis of fractions as percentages, with the same number of decimals on every tick."""
    axis.set_major_formatter(_PercentFormatter())


def whole_numbers() -> MaxNLocator:
    """Return a locator that places ticks at whole numbers only."""
    return MaxNLocator(integer=True, steps=[1, 2, 5, 10])


def plain_log_ticks(axis: Axis) -> None:
    """Label a log axis 1, 10, 100 instead of with powers of ten, which would need mathtext."""
    low, high = axis.get_view_interval()
    subs = (1,) if high / low > 300 else (1, 2, 5) if high / low > 6 else range(1, 10)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_minor_formatter(NullFormatter())


def log_colorbar(
    figure: FigureBase, mappable: plt.cm.ScalarMappable, axes: Axes, label: str
) -> None:
    """Add a colour bar for a log colour scale, labelled with plain numbers."""
    bar: Any = figure.colorbar(mappable, ax=axes, label=label, aspect=30, pad=0.02)
    bar.formatter = lambda value, _: f"{value:,g}"
    bar.minorformatter = NullFormatter()
    bar.outline.set_visible(False)


def number_ticks(axes: Axes, numbers: Sequence[str], side: float) -> None:
    """Number the rows and columns of a matrix.

    Every other number is placed further from the axis, so that more of them fit.

    numbers: one label per row and column; side: of the matrix, in millimetres.
    """
    step = int(np.ceil(1.25 * TINY * POINT / (2 * side / len(numbers))))
    further = 4 + max(printed_width(number, TINY) for number in numbers) / POINT
    for start, minor, outward in ((0, False, 2), (step, True, further)):
        places = range(start, len(numbers), 2 * step)
        style: dict[str, Any] = {
            "labels": [numbers[i] for i in places],
            "minor": minor,
            "fontsize": TINY,
        }
        axes.set_xticks(places, rotation=90, **style)
        axes.set_yticks(places, **style)
        axes.tick_params(which="minor" if minor else "major", length=outward, pad=1)


def label_points(
    axes: Axes,
    points: np.ndarray,
    names: Sequence[str],
    size: float,
    others: np.ndarray | tuple[()] = (),
) -> None:
    """Write a name beside each point; names do not overlap and avoid covering points.

    Each name goes to the nearest free place. A name far from its point is joined to it by a line.

    points: (n, 2), in data coordinates; names: one per point; size: of the text, in points;
    others: (m, 2), further points that the names should not cover.
    """
    figure: Any = axes.get_figure(root=True)
    figure.draw_without_rendering()  # the layout fixes the position of the axes only here
    to_points = 72 / figure.dpi

    def place(data: np.ndarray | tuple[()]) -> np.ndarray:
        return axes.transData.transform(np.reshape(data, (-1, 2))) * to_points

    taken = place(others)
    taken_boxes = np.full_like(taken, 6.0)
    costs = np.full(len(taken), 40.0)  # covering a point costs as much as being 40 pt away
    shifts = np.stack(np.meshgrid(np.arange(-240, 241, 5), np.arange(-150, 151, 3)), -1)
    leader = {"arrowstyle": "-", "color": "0.4", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0}
    for point, anchor, name in zip(points, place(points), names, strict=True):
        box = np.array([printed_width(name, size) / POINT + 4, 1.3 * size])
        start = anchor + np.array([box[0] / 2 + 3.5 if len(others) else 0, 0])
        low, high = axes.bbox.min * to_points + box / 2, axes.bbox.max * to_points - box / 2
        centres = np.clip(start + shifts.reshape(-1, 2), low, high)
        away = np.hypot(*np.maximum(abs(centres - anchor) - box / 2, 0).T)
        covers = (abs(centres[:, None] - taken) < (box + taken_boxes) / 2).all(axis=-1)
        best = np.argmin(covers @ costs + away + 0.1 * np.hypot(*(centres - start).T))
        taken, taken_boxes = np.vstack([taken, centres[best]]), np.vstack([taken_boxes, box])
        costs = np.append(costs, 1000.0)
        axes.annotate(
            name,
            point,
            xytext=centres[best] - anchor,
            textcoords="offset points",
            size=size,
            ha="center",
            va="center",
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.3},
            arrowprops=leader if away[best] > size else None,
        )
