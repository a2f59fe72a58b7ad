"""Figures of the final test: confusion matrix, embedding, mistakes, F1, and the learning curve."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import PowerNorm, to_hex
from matplotlib.figure import Figure

from thesis_lib.figures.axes import (
    legend,
    number_ticks,
    percent_ticks,
    plain_log_ticks,
)
from thesis_lib.figures.labels import label_points
from thesis_lib.figures.layout import (
    draw_image,
    figure_over_key,
    page,
    printed_width,
    shorten,
    subplots,
    thumbnail_grid,
    wrap,
)
from thesis_lib.figures.style import (
    BODY,
    INCH,
    NAMED_CLASSES,
    PALETTE,
    POINT,
    SMALL,
    TICK,
    class_numbers,
    text_width,
)

CELL_MAP = "crest"  # colour map of confusion matrices
COLOR_BAR_MM = 15  # width of a colour bar with its numbers
CELL_MM = 6.5  # smallest cell that its value fits in


def confusion_matrix(counts: np.ndarray, classes: Sequence[str], normalize: bool) -> Figure:
    """Plot a confusion matrix on a square-root colour scale; zero cells stay white.

    With more than 15 classes, or on a narrow page, the axes are numbered and a key below the
    matrix gives the names.

    counts: (k, k) ints, rows = true, columns = predicted; normalize: show each row in percent of
    its sum; rows without images stay blank. Raises ValueError if the shape of counts is not
    (k, k) for k classes.
    """
    counts, k = np.asarray(counts), len(classes)
    if counts.shape != (k, k):
        raise ValueError(f"counts has shape {counts.shape}, but there are {k} classes")
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = 100 * counts / total if normalize else counts
    shown = np.ma.masked_equal(shown, 0)
    unit = "share of the true class (%)" if normalize else "images"
    norm = _cell_norm(100 if normalize else counts.max())
    edges = np.arange(k + 1) - 0.5
    style: dict[str, Any] = {"cmap": CELL_MAP, "norm": norm, "edgecolor": "0.92", "linewidth": 0.2}
    few = classes if k <= NAMED_CLASSES else []
    names = [shorten(name, min(45, text_width() / 3), TICK) for name in few]
    longest = max((printed_width(name, TICK) for name in names), default=0)
    side = min(max(11 * k + 8, 40), text_width() - longest - 12 - COLOR_BAR_MM)
    if names and side >= k * CELL_MM:
        wide = longest > side / k - 1
        figure, axes = subplots(side + (longest if wide else 3) + 12)
        mesh = axes.pcolormesh(edges, edges, shown, **style)
        axes.set_xticks(range(k), names, rotation=90 if wide else 0)
        axes.set_yticks(range(k), names)
        axes.tick_params(length=0)
        for row, column in np.argwhere(counts):
            value = f"{shown[row, column]:.1f}" if normalize else f"{shown[row, column]}"
            ink = _ink_on(norm(shown[row, column]))
            axes.text(column, row, value, size=SMALL, ha="center", va="center", color=ink)
    else:
        figure, top = figure_over_key(text_width() - 20, classes)
        axes = top.subplots()
        mesh = axes.pcolormesh(edges, edges, shown, **style)
        height = top.bbox.height / figure.dpi * INCH
        number_ticks(axes, class_numbers(classes), height - 25)
    axes.set(aspect="equal", xlim=edges[[0, -1]], ylim=edges[[-1, 0]])
    axes.spines[:].set_visible(True)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(unit, fontsize=TICK, loc="right")
    ticks = np.unique(np.round(norm.vmax * np.array([0, 0.01, 0.1, 0.25, 0.5, 1])))
    style = {"ticks": ticks, "format": "{x:,.0f}"}
    bar: Any = axes.figure.colorbar(mesh, ax=axes, aspect=30, pad=0.02, **style)
    bar.outline.set_visible(False)
    return figure


def cell_colors(counts: Sequence[int]) -> tuple[list[str], list[str]]:
    """Return the fill and text colours of confusion-matrix cells as hex strings.

    The colours are the same as in :func:`confusion_matrix`. counts: of all non-zero cells.
    """
    shades = np.asarray(_cell_norm(max(counts, default=0))(counts))
    return [to_hex(color) for color in colormaps[CELL_MAP](shades)], [*map(_ink_on, shades)]


def _cell_norm(most: float) -> PowerNorm:
    """Return the scale that maps the value of a cell to its shade on [0, 1].

    On a square-root scale, both rare confusions and large shares can be told apart.
    """
    return PowerNorm(0.5, 0, max(most, 10), clip=True)


def _ink_on(shade: float) -> str:
    return "white" if shade > 0.55 else "black"


def embedding(points: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Plot a 2-D embedding of the features, coloured by class, with a label beside each class.

    With more than 15 classes, the labels are numbers, which a key below explains. If there is no
    room for all labels, those of the smallest classes are left out, and the figure says how many.
    Colours are used more than once, but not for neighbouring classes.

    points: one row per image; columns x, y, true, predicted (class names); classes: all class
    names, in order.
    """
    named = len(classes) <= NAMED_CLASSES
    figure, part = figure_over_key(text_width() * 0.85, [] if named else classes)
    axes = part.subplots()
    medians = points.groupby("true")[["x", "y"]].median()
    colors = dict(zip(medians.index, _spread_colors(medians.to_numpy()), strict=True))
    size = np.clip(4000 / len(points), 2, 12)
    dots: dict[str, Any] = {"s": size, "linewidths": 0, "rasterized": True}
    axes.scatter(points["x"], points["y"], c=points["true"].map(colors), alpha=0.7, **dots)
    wrong = points[points["true"] != points["predicted"]]
    cross: dict[str, Any] = {"marker": "x", "color": "black", "linewidths": 0.6, "rasterized": True}
    axes.scatter(wrong["x"], wrong["y"], s=size + 5, label="misclassified", **cross)
    axes.set(xticks=[], yticks=[], xlabel=" ")  # keeps the place of the line below
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_visible(False)
    legend(figure, axes, "upper")
    labels = dict(zip(classes, classes if named else class_numbers(classes), strict=True))
    largest_first = medians.loc[points["true"].value_counts().index]
    names = [shorten(labels[name], 40, TICK) for name in largest_first.index]
    others = points[["x", "y"]].to_numpy()
    size = TICK if named else SMALL
    left_out = label_points(axes, largest_first.to_numpy(), names, size, others)
    if left_out:
        axes.set_xlabel(f"no room for the labels of {left_out} of the {len(names)} classes")
    return figure


def _spread_colors(places: np.ndarray) -> list[str]:
    """Choose a colour of the palette for each class (k, 2), far from others of the same colour."""
    colors: list[str] = []
    for i, place in enumerate(places):
        nearest = dict.fromkeys(PALETTE, np.inf)
        for color, distance in zip(colors, np.hypot(*(places[:i] - place).T), strict=True):
            nearest[color] = min(nearest[color], distance)
        colors.append(max(nearest, key=lambda color: nearest[color]))
    return colors


def mistakes(images: list[np.ndarray], captions: list[str]) -> Figure:
    """Draw misclassified images, each above its caption, or "no mistakes" if there are none.

    images: uint8 arrays (h, w, 3) of any size; captions: one per image, lines separated by
    newlines.
    """
    if not images:
        figure, canvas = page(20)
        canvas.text(text_width() / 2, 10, "no mistakes", size=BODY, ha="center", va="center")
        return figure
    line = 1.25 * SMALL * POINT
    columns, side = thumbnail_grid(len(images), 1, 4 * line + 3, largest=28)
    pitch = text_width() / columns
    wrapped = [
        [part for text in caption.split("\n") for part in wrap(text, pitch - 2, SMALL, max_lines=3)]
        for caption in captions
    ]
    height = side + max(len(lines) for lines in wrapped) * line + 3
    figure, canvas = page(-(-len(images) // columns) * height)
    for i, (image, lines) in enumerate(zip(images, wrapped, strict=True)):
        x, y = i % columns * pitch, i // columns * height
        draw_image(canvas, image, x, y, side)
        canvas.text(x, y + side + 0.8, "\n".join(lines), size=SMALL, va="top")
    return figure


def per_class_f1(table: pd.DataFrame) -> Figure:
    """Plot the F1 score of each class against its number of training images.

    The eight classes with the lowest F1 are named.

    table: columns class, support (number of training images), f1 (0 to 1; rows with NaN are
    skipped).
    """
    table = table.dropna(subset="f1").sort_values("f1")
    figure, axes = subplots(90)
    # A class without training images is drawn at 0.5, because a log axis cannot show 0.
    points = np.column_stack([table["support"].clip(lower=0.5), table["f1"]])
    axes.scatter(*points.T, s=14, color=PALETTE[0], alpha=0.8, linewidths=0)
    axes.set(xscale="log", xlim=(points[:, 0].min() / 1.8, points[:, 0].max() * 1.8))
    axes.set_ylim(max(points[:, 1].min() - 0.12, -0.03), 1.02)
    axes.set(xlabel="training images", ylabel="F1 on the test set")
    plain_log_ticks(axes.xaxis)
    names = [shorten(name, min(50, 0.4 * text_width()), SMALL) for name in table["class"][:8]]
    label_points(axes, points[:8], names, SMALL, points)
    return figure


def learning_curve(table: pd.DataFrame) -> Figure:
    """Plot accuracy and macro F1 of the head against the number of labelled images per class.

    table: one row per number of images; columns images_per_class, accuracy, f1 and the limits of
    their intervals, <metric>_low and <metric>_high (fractions).
    """
    figure, axes = subplots(75)
    x = table["images_per_class"]
    lines = (("accuracy", "accuracy", PALETTE[0]), ("f1", "macro F1", PALETTE[1]))
    for metric, words, color in lines:
        low, high = table[f"{metric}_low"], table[f"{metric}_high"]
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        axes.vlines(x, low, high, color=color, alpha=0.4, linewidth=0.8)  # visible for one point
        axes.plot(x, table[metric], "o-", color=color, markersize=3, label=words)
    axes.set(xscale="log", xlabel="labelled images per class, at most")
    axes.set_ylabel("on the validation images")
    axes.set_xticks(x, [f"{size:,}" for size in x])
    axes.minorticks_off()
    percent_ticks(axes.yaxis)
    legend(figure, axes, "upper")
    return figure
