"""Ticks, legends, colour bars and point labels for the axes of a figure."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import (
    FixedLocator,
    Formatter,
    Locator,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)

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


def plain_log_ticks(axis: Axis, most: int | None = None) -> None:
    """Label a log axis 1, 10, 100 instead of with powers of ten, which would need mathtext.

    most: number of ticks that there is room for; by default matplotlib's estimate.
    """
    low, high = axis.get_view_interval()
    subs = (1,) if high / low > 300 else (1, 2, 5) if high / low > 6 else range(1, 10)
    locator: Locator = LogLocator(subs=subs, numticks=most)
    if most:
        ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
        picks = np.linspace(0, len(ticks) - 1, min(most, len(ticks))).round().astype(int)
        locator = FixedLocator([ticks[i] for i in picks])
    axis.set_major_locator(locator)
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
