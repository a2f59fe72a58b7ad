"""Names beside the points of a figure, which cover neither the points nor each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from thesis_lib.figures.layout import printed_width
from thesis_lib.figures.style import POINT


def label_points(
    axes: Axes,
    points: np.ndarray,
    names: Sequence[str],
    size: float,
    others: np.ndarray,
) -> int:
    """Write a name beside each point; names do not overlap and avoid covering points.

    Each name goes to the nearest free place, the first names first. A name far from its point is
    joined to it by a line. Names that find no room are left out; returns how many.

    points: (n, 2), in data coordinates; names: one per point; size: of the text, in points;
    others: (m, 2), all points that the names should not cover.
    """
    figure: Any = axes.get_figure(root=True)
    figure.draw_without_rendering()  # the layout fixes the position of the axes only here
    to_points = 72 / figure.dpi
    corner, extent = axes.bbox.min * to_points, np.array(axes.bbox.size) * to_points

    def place(data: np.ndarray) -> np.ndarray:
        return axes.transData.transform(data) * to_points - corner

    free = _Free(extent, place(others))
    shifts = np.stack(np.meshgrid(np.arange(-240, 241, 5), np.arange(-150, 151, 3)), -1)
    leader: dict[str, Any] = {
        "arrowstyle": "-",
        "color": "0.4",
        "linewidth": 0.4,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    left_out = 0
    for point, anchor, name in zip(points, place(points), names, strict=True):
        box = np.array([printed_width(name, size) / POINT + 4, 1.3 * size])
        start = anchor + np.array([box[0] / 2 + 3.5, 0])
        centres = np.clip(start + shifts.reshape(-1, 2), box / 2, extent - box / 2)
        ends = np.clip(anchor, centres - box / 2, centres + box / 2)  # of lines to the point
        away = np.hypot(*(ends - anchor).T)
        crossed = free.cost_of_lines(anchor, ends)
        costs = free.cost_of_boxes(centres, box) + crossed
        best = np.argmin(costs + away + 0.1 * np.hypot(*(centres - start).T))
        # A line that only touches a name can still be followed.
        if crossed[best] > 2 * free.TEXT or free.covers_a_name(centres[best], box):
            left_out += 1
            continue
        joined = away[best] > size
        free.take(centres[best], box, anchor, ends[best] if joined else anchor)
        corner_of_line = tuple((ends[best] - centres[best]) / box + 0.5)  # as shares of the box
        axes.annotate(
            name,
            point,
            xytext=centres[best] - anchor,
            textcoords="offset points",
            size=size,
            ha="center",
            va="center",
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.3},
            arrowprops=leader | {"relpos": corner_of_line} if joined else None,
        )
    return left_out


class _Free:
    """A map of the axes, in points, of what names must not cover: other names, lines and points."""

    # Covering a point costs as much as being 40 pt away, or less if there are many.
    POINT, POINTS, LINE, TEXT = 40.0, 6_000.0, 100.0, 1_000.0

    def __init__(self, extent: np.ndarray, points: np.ndarray) -> None:
        self.costs = np.zeros(np.ceil(extent).astype(int) + 1)
        self.named = np.zeros(self.costs.shape, dtype=bool)
        np.add.at(self.costs, self._cells(points), min(self.POINT, self.POINTS / len(points)))

    def _cells(self, places: np.ndarray) -> tuple[np.ndarray, ...]:
        cells = np.clip(places.astype(int), 0, np.array(self.costs.shape) - 1)
        return tuple(np.moveaxis(cells, -1, 0))

    def _slices(self, centre: np.ndarray, box: np.ndarray) -> tuple[slice, ...]:
        ends = zip(self._cells(centre - box / 2), self._cells(centre + box / 2), strict=True)
        return tuple(slice(low, high + 1) for low, high in ends)

    def cost_of_boxes(self, centres: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Return what each box (n, 2) covers; a margin of 3 pt keeps it clear of points."""
        sums = self.costs.cumsum(0).cumsum(1)  # the sum over a box is that of four corners
        (left, down), (right, up) = (self._cells(centres + s * (box / 2 + 3)) for s in (-1, 1))
        return sums[right, up] - sums[left, up] - sums[right, down] + sums[left, down]

    def cost_of_lines(self, anchor: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return what is covered by the names that the lines from a point to (n, 2) cross."""
        steps = np.linspace(0, 1, 24)[:, None, None]
        crossed = self.costs[self._cells(anchor + steps * (ends - anchor))]
        return np.where(crossed >= self.TEXT, self.TEXT, 0).sum(0)

    def covers_a_name(self, centre: np.ndarray, box: np.ndarray) -> bool:
        """Return whether a box covers a name that has its place already."""
        return bool(self.named[self._slices(centre, box)].any())

    def take(
        self, centre: np.ndarray, box: np.ndarray, anchor: np.ndarray, end: np.ndarray
    ) -> None:
        """Take the place of a name and of the line that joins it to its point."""
        self.costs[self._slices(centre, box)] += self.TEXT
        self.named[self._slices(centre, box)] = True
        steps = np.linspace(0, 1, 200)[:, None]
        self.costs[self._cells(anchor + steps * (end - anchor))] += self.LINE
