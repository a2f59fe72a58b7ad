"""Figures of the data set: class counts, sample images and augmented views."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from thesis_lib.figures.axes import percent_ticks, plain_log_ticks
from thesis_lib.figures.class_rows import class_panels, name_rows
from thesis_lib.figures.layout import (
    draw_image,
    page,
    shorten,
    subplots,
    thumbnail_grid,
    wrap,
)
from thesis_lib.figures.style import (
    BODY,
    NAMED_CLASSES,
    PAGE_HEIGHT_MM,
    PALETTE,
    POINT,
    SMALL,
    SPLIT_COLORS,
    TICK,
    TINY,
    text_width,
)

COLUMNS = 8
COUNTS_FRAME_MM = 22  # the key and the axis of class_counts
LINE = 1.25 * POINT  # line height in millimetres per point of font size

CAPTION_LINES = 6  # maximum for a pair of images


def class_counts(counts: pd.DataFrame) -> Figure:
    """Plot the number of images per class and split on a log axis, with the largest class on top.

    Many classes are shown in columns. If they do not fit a page, the smallest are left out, and
    the figure says how many.

    counts: ints; index = class names, columns = any of train, val, test. A class without images
    in a split gets no mark for that split.
    """
    order = counts.sum(axis=1).sort_values(ascending=False, kind="stable").index
    figure, panels, rows, pitch = class_panels(len(order), COUNTS_FRAME_MM)
    most = rows * len(panels)
    shown, hidden = counts.loc[order[:most]], counts.loc[order[most:]]
    for number, axes in enumerate(panels):
        own = shown[number * rows : (number + 1) * rows]
        marks = _count_marks(axes, own, pitch)
        axes.set(xscale="log", xlim=(0.7, 1.5 * max(counts.to_numpy().max(), 10)))
        axes.set_xlabel("images")
        name_rows(axes, own.index, rows, pitch, len(panels))
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks))
    if len(hidden):
        total = int(hidden.to_numpy().sum())
        figure.supxlabel(
            f"not shown: the {len(hidden):,} smallest classes, {total:,} images", size=TICK
        )
    return figure


def _count_marks(axes: Axes, counts: pd.DataFrame, pitch: float) -> list[Any]:
    """Draw a row of marks for each class; pitch: height of a row (mm)."""
    rows, seen = np.arange(len(counts)), counts.where(counts > 0)
    axes.hlines(rows, 0.7, seen.max(axis=1), color="0.85", linewidth=0.5)
    marks = []
    for split, marker in zip(counts.columns, ("o", "D", "|"), strict=False):
        style: dict[str, Any] = {"color": SPLIT_COLORS[split], "markersize": min(3.0, pitch)}
        style["linestyle"] = "none"
        marks += axes.plot(seen[split], rows, marker=marker, label=split, **style)
    return marks


def sample_images(samples: dict[str, list[np.ndarray]]) -> Figure:
    """Draw a row of thumbnails for each class, below the class name.

    samples: class name -> list of uint8 arrays (h, w, 3) of any size.
    """
    longest = max(len(images) for images in samples.values())
    width, size = text_width(), SMALL if len(samples) <= NAMED_CLASSES else TINY
    name_height = 1.35 * size * POINT
    columns, side = thumbnail_grid(len(samples), longest, name_height + 0.8, largest=14)
    rows = -(-len(samples) // columns)
    figure, canvas = page(rows * (side + name_height + 0.8))
    for i, (name, images) in enumerate(samples.items()):
        x = (i // rows) * width / columns
        y = (i % rows) * (side + name_height + 0.8)
        canvas.text(x, y, shorten(name, width / columns - 2, size), size=size, va="top")
        for j, image in enumerate(images):
            draw_image(canvas, image, x + j * (side + 0.5), y + name_height, side)
    return figure


def views(
    originals: Sequence[np.ndarray],
    views: Sequence[Sequence[np.ndarray]],
    evaluation: Sequence[np.ndarray],
    names: Sequence[str],
) -> Figure:
    """Draw images and what the backbone sees of them: one column per image, below its class name.

    On a narrow page, the second half of the columns stands below the first.

    originals: uint8 arrays (h, w, 3), one per image; views: one such list per random view;
    evaluation: the views of evaluation; names: class name of each image.
    """
    labels, narrow = 17, 17.5
    room = text_width() - labels
    columns = len(names) if room / len(names) > narrow else -(-len(names) // 2)
    rows = {"original": originals}
    rows |= {f"view {number}": images for number, images in enumerate(views, start=1)}
    rows |= {"evaluation": evaluation}
    blocks = -(-len(names) // columns)
    pitch = min(room / columns, 30, (PAGE_HEIGHT_MM / blocks - 12) / len(rows))
    wrapped = [wrap(name, pitch - 1.5, SMALL, max_lines=3) for name in names]
    top = max(len(lines) for lines in wrapped) * LINE * SMALL + 1
    block_height = top + len(rows) * pitch
    figure, canvas = page(blocks * block_height)
    for block in range(blocks):
        for row, label in enumerate(rows):
            y = block * block_height + top + (row + 0.5) * pitch
            canvas.text(0, y - 0.5, label, size=BODY, va="center")
    for number, lines in enumerate(wrapped):
        x, y = labels + number % columns * pitch, number // columns * block_height + top
        canvas.text(x, y - 1, "\n".join(lines), size=SMALL, va="bottom")
        for row, images in enumerate(rows.values()):
            draw_image(canvas, images[number], x, y + row * pitch, pitch - 1)
    return figure


def image_pairs(pairs: Sequence[tuple[np.ndarray, np.ndarray, str]], empty_text: str) -> Figure:
    """Draw pairs of images side by side, each above its caption.

    pairs: two uint8 arrays (h, w, 3) of any size and a caption, whose lines are separated by
    newlines; empty_text: written on the figure if there are no pairs.
    """
    if not pairs:
        figure, canvas = page(20)
        canvas.text(text_width() / 2, 10, empty_text, size=BODY, ha="center", va="center")
        return figure
    line, gap = 1.25 * SMALL * POINT, 0.8
    columns, side = thumbnail_grid(len(pairs), 2, CAPTION_LINES * line + 3, largest=22)
    pitch = text_width() / columns
    wrapped = [
        [part for text in caption.split("\n") for part in wrap(text, pitch - 2, SMALL, max_lines=2)]
        for _, _, caption in pairs
    ]
    height = side + max(len(lines) for lines in wrapped) * line + 3
    figure, canvas = page(-(-len(pairs) // columns) * height)
    for i, ((image, other, _), lines) in enumerate(zip(pairs, wrapped, strict=True)):
        x, y = i % columns * pitch, i // columns * height
        draw_image(canvas, image, x, y, side)
        draw_image(canvas, other, x + side + 0.5, y, side)
        canvas.text(x, y + side + gap, "\n".join(lines), size=SMALL, va="top")
    return figure


def picture_groups(
    groups: Sequence[tuple[str, Sequence[np.ndarray | None], Sequence[str]]],
) -> Figure:
    """Draw groups of pictures, each group below its heading and each picture above its caption.

    groups: tuples of a heading, a list of pictures and a list of captions. A picture is a uint8
    array (h, w, 3) of any size, or None for an empty frame; each picture has one caption, whose
    lines are separated by newlines. A group may be empty.
    """
    pitch = text_width() / COLUMNS
    side = pitch - 1.5
    rows: list[tuple[float, list[str], list[tuple[np.ndarray | None, list[str]]]]] = []
    for heading, images, captions in groups:
        wrapped = [
            [part for text in caption.split("\n") for part in wrap(text, side, SMALL, max_lines=3)]
            for caption in captions
        ]
        titles = wrap(heading, text_width(), BODY, max_lines=2)
        rows.append((len(titles) * LINE * BODY + 1.5, titles, []))
        pictures = list(zip(images, wrapped, strict=True))
        for start in range(0, len(pictures), COLUMNS):
            row = pictures[start : start + COLUMNS]
            lines = max(len(lines) for _, lines in row)
            rows.append((side + lines * LINE * SMALL + 3, [], row))

    figure, canvas = page(sum(height for height, _, _ in rows))
    y = 0.0
    for height, titles, row in rows:
        if titles:
            canvas.text(0, y, "\n".join(titles), size=BODY, va="top")
        for position, (image, caption_lines) in enumerate(row):
            x = position * pitch
            if image is None:
                frame: dict[str, Any] = {"fill": False, "edgecolor": "0.7", "linewidth": 0.6}
                canvas.add_patch(Rectangle((x, y), side, side, **frame))
            else:
                draw_image(canvas, image, x, y, side)
            canvas.text(x, y + side + 0.8, "\n".join(caption_lines), size=SMALL, va="top")
        y += height
    return figure


def threshold_curve(curve: pd.DataFrame, threshold: float) -> Figure:
    """Plot accuracy and size of a look-up table against the pruning threshold.

    curve: columns threshold, images (number of images kept in the table), and accuracy,
    accuracy_low, accuracy_high (fractions); threshold: the one to mark.
    """
    figure, (left, right) = subplots(48, ncols=2)
    x, marked = curve["threshold"], curve[curve["threshold"] == threshold]
    left.fill_between(
        x, curve["accuracy_low"], curve["accuracy_high"], color=PALETTE[0], alpha=0.2, linewidth=0
    )
    for axes, column, label in (
        (left, "accuracy", "accuracy (95 % interval)"),
        (right, "images", "images in the table"),
    ):
        axes.plot(x, curve[column], color=PALETTE[0])
        axes.axvline(threshold, color="0.3", linewidth=0.8, linestyle="dotted")
        axes.plot(marked["threshold"], marked[column], "o", color="black")
        axes.set(xlabel="pruning threshold", ylabel=label)
    percent_ticks(left.yaxis)
    right.set_yscale("log")
    plain_log_ticks(right.yaxis)
    return figure
