"""Show the nearest neighbours of an image in the look-up table."""

import os
from functools import cached_property
from html import escape
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure

from thesis_lib.data.cache import Images
from thesis_lib.data.datasets import Split
from thesis_lib.errors import InputError
from thesis_lib.evaluation.features import FrozenBackbone
from thesis_lib.evaluation.knn import unit_vectors
from thesis_lib.evaluation.retrieval import stored_table
from thesis_lib.reporting.results import Results
from thesis_lib.reporting.widgets.front_end import Explorer, shown
from thesis_lib.reporting.widgets.pictures import STYLE, Group, Picture, figure_of, html_of
from thesis_lib.runs.artifacts import read_retrieval_predictions
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.paths import find_path

LISTED = 500  # number of test images offered; a longer list would be hard to use


def neighbours(results: Results, image: str = "", k: int = 8) -> Explorer | Figure:
    """Show an image next to its nearest neighbours in the look-up table.

    Choose one of the test images, which are listed with the most similar misclassified ones
    first, or enter the path of any image file. Without a front end, a figure of the first image
    is returned. An image that is in the table is not counted as its own neighbour.

    Args:
        results: results of a run whose table was tested (notebook 05).
        image: the first image to show: a file of the data set (``test/<class>/<file>``) or any
            image file. By default, the first test image in the list.
        k: number of neighbours to show.

    Raises:
        InputError: if the table was not tested yet, the data set is missing or has changed, or
            the image does not exist.
    """
    nearest = _Nearest(results, k)
    first = image or nearest.tested["path"].iloc[0]
    figure = figure_of(nearest.groups(first), results.config.text_width)
    return shown(lambda: _children(nearest, first), figure)


class _Nearest:
    """Look up images in a run's table."""

    def __init__(self, results: Results, k: int) -> None:
        self.run, self.dataset, self.k = results.run, results.dataset, k
        if not self.run.retrieval_predictions_file.is_file():
            raise InputError(
                f"the look-up table of {self.run.path.name} was not tested yet; run notebook 05 "
                f"or `thesis retrieve {self.run.path.name}` first"
            )
        self.stored = stored_table(self.run).pruned()
        self.table = self.stored.table
        tested = read_retrieval_predictions(self.run)
        # Misclassified images first, most similar first; then correct ones, least similar first.
        wrong = tested["true"] != tested["predicted"]
        order = np.lexsort((tested["similarity"].where(~wrong, -tested["similarity"]), ~wrong))
        self.tested = tested.iloc[order]

    @cached_property
    def backbone(self) -> FrozenBackbone:
        """The backbone that extracted the table's features."""
        # One image needs no GPU and no worker processes.
        run = RunDirectory(self.run.config.updated(workers=0, device="cpu"))
        return FrozenBackbone.load(run, self.stored.checkpoint)

    @cached_property
    def labels(self) -> dict[str, int]:
        """The label of every file of the data set."""
        splits = self.dataset.splits.values()
        return {f: int(n) for s in splits for f, n in zip(s.files, s.labels, strict=True)}

    def groups(self, image: str) -> list[Group]:
        """Return the image and its nearest neighbours as two groups of pictures.

        Raises:
            InputError: if the image does not exist or cannot be read.
        """
        root, classes = self.dataset.root, self.table.classes
        path = root / image if image in self.labels else find_path(image)
        file = Path(os.path.relpath(path, root)).as_posix()
        inside = file in self.table.files
        own = np.array([self.table.files.index(file)]) if inside else None
        voters = self.stored.neighbours
        similarity, rows = self.table.search(self._vector(path), max(self.k, voters), own)
        found = classes[self.table.vote(rows[:, :voters])[0]]
        true = f"true: {classes[self.labels[file]]}, " if file in self.labels else ""
        pictures = [
            Picture(
                root / self.table.files[row],
                f"{classes[self.table.labels[row]]}\n{Path(self.table.files[row]).name}\n"
                f"cosine {cosine:.3f}",
            )
            for row, cosine in zip(rows[0, : self.k], similarity[0, : self.k], strict=True)
        ]
        return [
            Group(f"{true}predicted by the table: {found}", [Picture(path, path.name)]),
            Group(
                f"Nearest of the {len(self.table):,} training images in the table "
                f"(pruning threshold {self.stored.threshold:.2f})",
                pictures,
            ),
        ]

    def _vector(self, path: Path) -> np.ndarray:
        """Extract the image's features, normalised to unit length: (1, d)."""
        label = np.zeros(1, dtype=np.int64)
        images = Images(Split(path.parent, [path.name], label, self.dataset.crop_bottom))
        return unit_vectors(self.backbone.features(images)[0].numpy())


def _children(nearest: _Nearest, first: str) -> list[widgets.Widget]:
    """Create the list of test images, the field for other files, and the pictures."""
    listed = nearest.tested[:LISTED]
    options = [
        (
            f"{row.path.split('/')[-1]}: {row.true}"
            + (f", predicted {row.predicted}" if row.true != row.predicted else ""),
            row.path,
        )
        for row in listed.itertuples()
    ]
    wide = {"layout": widgets.Layout(width="auto", max_width="720px")}
    choice = widgets.Dropdown(options=options, description="test image", value=None, **wide)
    other = widgets.Text(
        value=first,
        description="or any file",
        placeholder="test/<class>/<file>, or the path of an image",
        continuous_update=False,
        **wide,
    )
    pictures = widgets.HTML(html_of(nearest.groups(first)))

    def look(change: dict) -> None:
        try:
            pictures.value = html_of(nearest.groups(change["new"].strip()))
        except InputError as error:
            pictures.value = escape(str(error))

    if first in set(listed["path"]):
        choice.value = first
    choice.observe(lambda change: other.set_trait("value", change["new"]), "value")
    other.observe(look, "value")
    return [widgets.HTML(STYLE), choice, other, pictures]
