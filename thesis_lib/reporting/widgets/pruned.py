"""Show the effect of the pruning threshold on the look-up table, with a slider."""

import ipywidgets as widgets
import numpy as np
import pandas as pd
from IPython.core.pylabtools import print_figure
from matplotlib.figure import Figure

from thesis_lib import figures
from thesis_lib.evaluation.retrieval import stored_table
from thesis_lib.reporting.results import Results
from thesis_lib.reporting.widgets.front_end import Explorer, shown
from thesis_lib.reporting.widgets.pictures import STYLE, Group, Picture, figure_of, html_of
from thesis_lib.runs.artifacts import read_retrieval

PICTURES = 6  # number of dropped and of kept images shown; they fit in one row


def thresholds(results: Results) -> Explorer | Figure:
    """Show the look-up table at each pruning threshold, with a slider and images of a class.

    Each dropped image is shown above the most similar kept image of its class. The initial
    threshold is the selected one, and the initial class the one with the most dropped images.
    Without a front end, a figure of these images is returned.

    Args:
        results: results of a run; its look-up table is built if it is missing.

    Raises:
        InputError: if the data set is missing or has changed.
    """
    pruned = _Pruned(results)
    number = pruned.stored.index_of(pruned.stored.threshold)
    label = int((pruned.per_class(~pruned.stored.kept[number])).argmax())
    figure = figure_of(pruned.groups(number, label), results.config.text_width)
    return shown(lambda: _children(pruned, number, label), figure)


class _Pruned:
    """A run's look-up table at each of its pruning thresholds, by the threshold's index."""

    def __init__(self, results: Results) -> None:
        self.root, self.stored = results.dataset.root, stored_table(results.run)
        self.table = self.stored.table
        curve = read_retrieval(results.run)
        self.curve = curve[curve["split"] != "test"].reset_index(drop=True)

    def per_class(self, images: np.ndarray) -> np.ndarray:
        """Count the images of each class in a mask (n,); returns (num_classes,)."""
        return np.bincount(self.table.labels[images], minlength=len(self.table.classes))

    def groups(self, number: int, label: int) -> list[Group]:
        """Return the dropped images of a class, above the most similar kept images."""
        threshold, kept = self.stored.thresholds[number], self.stored.kept[number]
        name, own = self.table.classes[label], self.table.labels == label
        keeps, drops = np.flatnonzero(own & kept), np.flatnonzero(own & ~kept)
        if not len(drops):
            pictures = [self._picture(row) for row in keeps[:PICTURES]]
            heading = f"{name}: none of {len(keeps):,} images is dropped at {threshold:.2f}"
            return [Group(heading, pictures)]
        similarity = self.table.vectors[drops] @ self.table.vectors[keeps].T  # (drops, keeps)
        nearest = similarity.argmax(1)
        cosine = similarity.max(1)
        least = np.argsort(cosine, kind="stable")[:PICTURES]
        dropped = [self._picture(drops[i]) for i in least]
        standing = [self._picture(keeps[nearest[i]], f"cosine {cosine[i]:.3f}") for i in least]
        heading = f"{name}: {len(drops):,} of {own.sum():,} images are dropped at {threshold:.2f}"
        if len(drops) > PICTURES:
            heading += f"; the {PICTURES} least similar to a kept image"
        return [
            Group(heading, dropped),
            Group(f"The most similar of {len(keeps):,} kept images, in the same order", standing),
        ]

    def _picture(self, row: int, note: str = "") -> Picture:
        file = self.table.files[row]
        return Picture(self.root / file, f"{file.split('/')[-1]}\n{note}".strip())

    def row(self, number: int) -> pd.Series:
        """Return the row of ``retrieval.csv`` for a threshold."""
        away = (self.curve["threshold"] - self.stored.thresholds[number]).abs()
        return self.curve.loc[away.idxmin()]

    def line(self, number: int) -> str:
        """Summarise the table at a threshold in one line of HTML."""
        row = self.row(number)
        names = ("accuracy", "accuracy_low", "accuracy_high")
        accuracy, low, high = (100 * row[name] for name in names)
        chosen = self.stored.thresholds[number] == self.stored.threshold
        return (
            f"accuracy on {row['split']} <b>{accuracy:.1f} %</b> (95 % interval {low:.1f} to "
            f"{high:.1f}) · <b>{row['images']:,.0f}</b> images kept · "
            f"<b>{row['index_mib']:.3g} MiB</b> · {1000 * row['seconds_per_image']:.2g} ms per "
            f"image{' · selected threshold' if chosen else ''}"
        )

    def curve_png(self, number: int) -> bytes:
        """Draw the accuracy and size curves with a threshold marked, as PNG."""
        figure = figures.data_set.threshold_curve(self.curve, self.row(number)["threshold"])
        return print_figure(figure, "png")


def _children(pruned: _Pruned, number: int, label: int) -> list[widgets.Widget]:
    """Create the slider with its summary and curve, and the class selector with its pictures."""
    wide = {"layout": widgets.Layout(width="auto", max_width="720px")}
    slider = widgets.SelectionSlider(
        options=[(f"{value:.2f}", i) for i, value in enumerate(pruned.stored.thresholds)],
        value=number,
        description="threshold",
        **wide,
    )
    images = pruned.per_class(np.ones(len(pruned.table), dtype=bool))
    choice = widgets.Dropdown(
        options=[
            (f"{name} ({count:,} images)", i)
            for i, (name, count) in enumerate(zip(pruned.table.classes, images, strict=True))
        ],
        value=label,
        description="class",
        **wide,
    )
    line, curve, pictures = widgets.HTML(), widgets.Image(format="png"), widgets.HTML()

    def move(_: object = None) -> None:
        line.value = pruned.line(slider.value)
        curve.value = pruned.curve_png(slider.value)

    def look(_: object = None) -> None:
        pictures.value = html_of(pruned.groups(slider.value, choice.value))

    move()
    look()
    slider.observe(move, "value")
    for control in (slider, choice):
        control.observe(look, "value")
    return [widgets.HTML(STYLE), slider, line, curve, choice, pictures]
