"""Figures of sizes: of the images in pixels, of what a model sees, and of the organisms in mm."""

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from thesis_lib.figures.axes import legend, log_colorbar, percent_ticks, plain_log_ticks
from thesis_lib.figures.class_rows import class_panels, name_rows
from thesis_lib.figures.layout import beside, subplots
from thesis_lib.figures.style import (
    PALETTE,
    SPLIT_COLORS,
    TICK,
)

FRAME_MM = 16  # the axis below a size spectrum


def image_sizes(sizes: pd.DataFrame) -> Figure:
    """Plot image widths against heights, and the distribution of the longer side per split.

    sizes: one row per image; columns split, width, height (pixels).
    """
    figure, (plane, cumulative) = subplots(68, ncols=2)
    limits = {}
    for side in ("width", "height"):
        # The margins also keep the limits apart if all images have the same size.
        limits[side] = sizes[side].min() / 1.6, sizes[side].max() * 1.6
    extent = np.log10([*limits["width"], *limits["height"]])
    plane.set(xscale="log", yscale="log", xlabel="width (pixels)", ylabel="height (pixels)")
    hexagons = plane.hexbin(
        *(sizes["width"], sizes["height"]),
        gridsize=36,
        mincnt=1,
        xscale="log",
        yscale="log",
        extent=extent,
        cmap="crest",
        linewidths=0,
        rasterized=True,  # vector hexagons would show thin gaps between them
    )
    hexagons.set_norm(LogNorm(1, max(10, hexagons.get_array().max())))
    plane.set(xlim=limits["width"], ylim=limits["height"])
    log_colorbar(figure, hexagons, plane, "images")
    longer = sizes[["width", "height"]].max(axis=1)
    # Later lines are thinner, because the curves of a good split lie on top of each other.
    for split, width in zip(SPLIT_COLORS, (3.0, 1.6, 0.6), strict=True):
        values = longer[sizes["split"] == split]
        if len(values):
            cumulative.ecdf(values, color=SPLIT_COLORS[split], linewidth=width, label=split)
    cumulative.set(xscale="log", xlim=(longer.min() / 1.6, longer.max() * 1.6))
    cumulative.set(xlabel=beside("longer side (pixels)", 3), ylabel="images up to this size")
    percent_ticks(cumulative.yaxis)
    for axis in (plane.xaxis, plane.yaxis, cumulative.xaxis):
        plain_log_ticks(axis)
    legend(figure, cumulative, "upper")
    return figure


def visible_share(shares: dict[str, np.ndarray], least: float) -> Figure:
    """Plot how much of each image the evaluation view shows, as a cumulative distribution.

    shares: way to make images square -> fraction of each image's area that is visible, (n,);
    least: fraction that is marked.
    """
    figure, axes = subplots(60)
    for (fit, share), color in zip(shares.items(), PALETTE, strict=False):
        few = f"{int((share < least).sum()):,} of {len(share):,} images below {100 * least:.0f} %"
        axes.ecdf(share, color=color, label=f"fit = {fit}: {few}")
    axes.axvline(least, color="0.6", linewidth=0.8, linestyle="dotted")
    axes.set(xlim=(0, 1.02), xlabel="visible share of an image's area")
    axes.set_ylabel("images with at most this share")
    percent_ticks(axes.xaxis)
    percent_ticks(axes.yaxis)
    legend(figure, axes, "upper")
    return figure


def size_spectrum(lengths: pd.DataFrame) -> Figure:
    """Plot the sizes of the organisms of each class, the largest class median on top.

    A dot is the median, the line spans the 5 % to 95 % quantiles. Many classes are shown in
    columns. If they do not fit a page, the classes with the fewest images are left out, and the
    figure says how many.

    lengths: one row per image; columns class and mm.
    """
    of_class = lengths.groupby("class", observed=True)["mm"]
    spans = of_class.quantile([0.05, 0.5, 0.95]).unstack()
    figure, panels, rows, pitch = class_panels(len(spans), FRAME_MM)
    largest = of_class.size().sort_values(ascending=False, kind="stable").index
    shown = spans.loc[largest[: rows * len(panels)]]
    shown = shown.sort_values(0.5, ascending=False, kind="stable")
    for number, axes in enumerate(panels):
        own = shown.iloc[number * rows : (number + 1) * rows]
        at = np.arange(len(own))
        axes.hlines(at, own[0.05], own[0.95], color=PALETTE[0], linewidth=1)
        axes.plot(own[0.5], at, "o", color=PALETTE[0], markersize=min(3.0, pitch))
        axes.set(xscale="log", xlim=(shown[0.05].min() / 1.3, shown[0.95].max() * 1.3))
        name_rows(axes, own.index, rows, pitch, len(panels))
    hidden = len(spans) - len(shown)
    left_out = f"\nnot shown: the {hidden:,} smallest classes" if hidden else ""
    write_label = figure.supxlabel if len(panels) > 1 else panels[0].set_xlabel
    write_label(f"major axis (mm){left_out}", size=TICK)
    return figure
