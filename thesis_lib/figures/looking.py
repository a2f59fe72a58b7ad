"""Pictures of the data set as an exploring reader meets them: in groups, beside what was found."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from thesis_lib.figures.axes import percent_ticks, plain_log_ticks
from thesis_lib.figures.layout import draw_image, page, subplots, wrap
from thesis_lib.figures.style import BODY, PALETTE, POINT, SMALL, text_width

COLUMNS = 8
LINE = 1.25 * POINT  # height of a line of text in millimetres, for each point of its size


def picture_groups(
    groups: Sequence[tuple[str, Sequence[np.ndarray | None], Sequence[str]]],
) -> Figure:
    """Groups of pictures, each group under its heading and each picture over its caption.

    groups: heading; uint8 arrays (h, w, 3) of any size, None for an empty frame; as many
    captions, lines parted by newlines. A group may have no picture.
    """
    pitch = text_width() / COLUMNS
    side = pitch - 1.5
    rows: list[tuple[float, list[str], list[tuple[np.ndarray | None, list[str]]]]] = []
    for heading, images, captions in groups:
        wrapped = [
            [part for text in caption.split("\n") for part in wrap(text, side, SMALL, lines=3)]
            for caption in captions
        ]
        titles = wrap(heading, text_width(), BODY, lines=2)
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
        for column, (image, lines) in enumerate(row):
            x = column * pitch
            if image is None:
                frame = {"fill": False, "edgecolor": "0.7", "linewidth": 0.6}
                canvas.add_patch(Rectangle((x, y), side, side, **frame))
            else:
                draw_image(canvas, image, x, y, side)
            canvas.text(x, y + side + 0.8, "\n".join(lines), size=SMALL, va="top")
        y += height
    return figure


def threshold_curve(curve: pd.DataFrame, threshold: float) -> Figure:
    """Accuracy and size of a look-up table against its pruning threshold, one of them marked.

    curve: columns threshold, images, and accuracy, accuracy_low, accuracy_high (fractions).
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
