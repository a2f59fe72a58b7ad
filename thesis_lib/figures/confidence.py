"""Figures of a classifier's confidence: calibration, and rejection of uncertain images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from thesis_lib.figures.axes import legend, percent_ticks, plain_log_ticks
from thesis_lib.figures.labels import label_points
from thesis_lib.figures.layout import beside, subplots
from thesis_lib.figures.style import PALETTE, SMALL


def reliability(table: pd.DataFrame, errors: Sequence[float]) -> Figure:
    """Plot accuracy against confidence, before and (unless it is 1) after temperature scaling.

    A histogram below each panel shows the number of images per confidence bin.

    table: one row per temperature and bin; columns temperature (two values, 1 first), low, high
    (bounds of the bin), images (a count) and accuracy (fraction, NaN for an empty bin); errors:
    expected calibration error (ECE) before and after scaling (fractions).
    """
    temperature = table["temperature"].iloc[-1]
    titles = ["before temperature scaling", f"after temperature scaling (T = {temperature:.2f})"]
    if temperature == 1:
        titles = ["without temperature scaling"]
    panels = {"nrows": 2, "ncols": len(titles), "height_ratios": (3, 1), "squeeze": False}
    figure, axes = subplots(95, **panels, sharex=True, sharey="row")
    layout: Any = figure.get_layout_engine()
    layout.set(wspace=0.08)  # keeps the labels "100 %" and "0 %" apart
    half = len(table) // 2
    for column, (error, title) in enumerate(zip(errors, titles, strict=False)):
        upper, lower = axes[:, column]
        bins = table[column * half : (column + 1) * half]
        middle, width = (bins["low"] + bins["high"]) / 2, bins["high"] - bins["low"]
        upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=0.8)
        upper.bar(middle, bins["accuracy"].fillna(0), 0.94 * width, color=PALETTE[column])
        upper.set(xlim=(0, 1), ylim=(0, 1), title=f"{beside(title)}\nECE {100 * error:.2f} %")
        lower.bar(middle, bins["images"], 0.94 * width, color="0.5")
        lower.set(xlabel="confidence", yscale="log")
        lower.set_ylim(0.7, 1.5 * table["images"].max())
        plain_log_ticks(lower.yaxis)
        for axis in (upper.yaxis, lower.xaxis):
            percent_ticks(axis)
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("images")
    return figure


def rejection(
    curve: pd.DataFrame, areas: Mapping[str, float], points: Mapping[str, tuple[float, float]]
) -> Figure:
    """Plot the accuracy of the images that are kept against their share of all images.

    curve: one row per share; columns coverage, accuracy and oracle (fractions); areas: accuracy and
    oracle -> area under their curve; points: wanted precision, as text -> coverage and accuracy
    with its threshold (fractions).
    """
    figure, axes = subplots(80)
    everything = curve["accuracy"].iloc[-1]
    axes.axhline(everything, color="0.6", linestyle="--", linewidth=0.8, label="all images kept")
    lines = (("oracle", "oracle", "0.45", ":"), ("accuracy", "by confidence", PALETTE[0], "-"))
    for column, words, color, style in lines:
        label = f"{words} (area {100 * areas[column]:.1f} %)"
        axes.plot(curve["coverage"], curve[column], style, color=color, label=label)
    axes.set(xlim=(-0.02, 1.02), xlabel="images that are kept")
    axes.set_ylabel("accuracy of the kept images")
    for axis in (axes.xaxis, axes.yaxis):
        percent_ticks(axis)
    if points:
        places = np.array(list(points.values()))
        axes.scatter(*places.T, s=22, color=PALETTE[1], zorder=3, label="wanted precision")
        in_the_way = np.vstack((curve[["coverage", "accuracy"]], places))
        label_points(axes, places, list(points), SMALL, in_the_way)
    legend(figure, axes, "upper")
    return figure
