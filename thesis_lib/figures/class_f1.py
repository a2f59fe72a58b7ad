"""Figure of the F1 of each class, the runs side by side."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thesis_lib.figures.axes import percent_ticks
from thesis_lib.figures.class_rows import class_panels, name_rows
from thesis_lib.figures.layout import shorten
from thesis_lib.figures.style import PALETTE, TICK, text_width

AXIS_MM, KEY_LINE_MM = 15.0, 4.6
MARKERS = "oDs"


def class_f1(table: pd.DataFrame) -> Figure:
    """Plot the F1 of each class on the test set with its 95 % interval, the lowest on top.

    Many classes are shown in columns. If they do not fit a page, those with the highest F1 are left
    out, and the figure says how many.

    table: one row per class and run, at most three runs, the classes in the order of the rows;
    columns class, run, f1, f1_low, f1_high (0 to 1; NaN is not drawn).
    """
    classes, runs = table["class"].drop_duplicates(), table["run"].drop_duplicates()
    key_columns = 2 if text_width() >= 120 else 1
    key_lines = -(-len(runs) // key_columns) if len(runs) > 1 else 0
    figure, panels, rows, pitch = class_panels(len(classes), AXIS_MM + KEY_LINE_MM * key_lines)
    shown = classes[: rows * len(panels)]
    lowest, marks = float(np.floor(10 * table["f1_low"].min())) / 10, []
    for number, axes in enumerate(panels):
        own = shown[number * rows : (number + 1) * rows]
        axes.set(xlim=(lowest - 0.02, 1.02))
        for row in range(1, len(own), 2):  # a band for every other class
            axes.axhspan(row - 0.5, row + 0.5, color="0.95", linewidth=0)
        marks = [
            _marks(axes, table[table["run"] == run].set_index("class").loc[own], at, len(runs))
            for at, run in enumerate(runs)
        ]
        percent_ticks(axes.xaxis)
        axes.set_xlabel("F1 on the test set")
        name_rows(axes, list(own), rows, pitch, len(panels))
    if key_lines:
        names = [shorten(run, 0.8 * text_width() / key_columns, TICK) for run in runs]
        figure.legend(marks, names, loc="outside upper center", ncols=key_columns)
    hidden = len(classes) - len(shown)
    if hidden:
        figure.supxlabel(f"not shown: the {hidden:,} classes with the highest F1", size=TICK)
    return figure


def _marks(axes: Axes, found: pd.DataFrame, at: int, num_runs: int) -> Line2D:
    """Draw the values of one run, a little below those of the run before."""
    places = np.arange(len(found)) + 0.62 * ((at + 0.5) / num_runs - 0.5)
    color = PALETTE[at]
    axes.hlines(places, found["f1_low"], found["f1_high"], color=color, linewidth=0.8)
    (marks,) = axes.plot(
        found["f1"].where(found["f1_low"].notna()),
        places,
        MARKERS[at],
        color=color,
        markersize=2.4 if num_runs < 3 else 1.8,
    )
    return marks
