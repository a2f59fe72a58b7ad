"""Show a confusion matrix whose cells can be clicked to see the images in them."""

from collections.abc import Sequence
from functools import partial
from html import escape

import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure

from thesis_lib import figures
from thesis_lib.reporting.results import Results
from thesis_lib.reporting.widgets.front_end import Explorer, shown
from thesis_lib.reporting.widgets.pictures import STYLE, Group, Picture, figure_of, html_of

PAGE = 24  # number of images shown at once
NAME_LETTERS = 24  # maximum length of a class name next to the matrix
ROW, ROW_OF_FEW = 22, 32  # row height in px with many and with few classes
DIGIT = 7  # width in px
# Buttons are placed by a CSS class per row and column, which takes 174 lines for 87 classes. A
# Layout with a grid_area for each button would double the number of widget models.
PLACES = """<style>
.thesis-matrix {{ grid-template-columns: max-content repeat({k}, {column}px);
    grid-template-rows: max-content repeat({k}, {row}px); max-height: 540px; width: fit-content;
    max-width: 100%; overflow: auto; font-size: 11px; }}
.thesis-matrix .headings, .thesis-matrix .headings > * {{ display: contents; }}
.thesis-matrix .headings > label {{ display: none; }}
.thesis-matrix .lines {{ grid-area: 2 / 2 / -1 / -1; background-image:
    linear-gradient(to right, var(--jp-border-color2, #e0e0e0) 1px, transparent 1px),
    linear-gradient(to bottom, var(--jp-border-color2, #e0e0e0) 1px, transparent 1px);
    background-size: {column}px {row}px; }}
.thesis-matrix .name {{ position: sticky; z-index: 1; white-space: nowrap; line-height: 1;
    background: var(--jp-layout-color0, white); display: flex; align-items: center; }}
.thesis-matrix .side {{ grid-column: 1; left: 0; justify-content: flex-end; padding: 0 6px; }}
.thesis-matrix .top {{ grid-row: 1; top: 0; padding: 6px 0; writing-mode: vertical-rl;
    transform: rotate(180deg); }}
.thesis-matrix .corner {{ grid-area: 1 / 1; left: 0; top: 0; z-index: 2; padding: 0 6px 6px;
    justify-content: flex-end; align-items: flex-end; text-align: right; line-height: 1.4; }}
.thesis-matrix .jupyter-button {{ width: auto; height: auto; min-width: 0; margin: 1px 0 0 1px;
    padding: 0; line-height: 1; font-size: 11px; border-radius: 0; overflow: hidden; }}
.thesis-matrix .jupyter-button:hover, .thesis-matrix .jupyter-button.chosen {{
    outline: 2px solid var(--jp-warn-color1, #d55e00); outline-offset: -1px; }}
{places}
</style>"""


def confusion(results: Results) -> Explorer | Figure:
    """Show the confusion matrix of the test set; click a cell to see its images.

    The images of the most frequent confusion are shown first. Without a front end, a figure of
    these images is returned.

    Args:
        results: results of the part "test".

    Raises:
        InputError: if the data set is missing or has changed.
    """
    members = _Members(results)
    first = members.most_confused()
    nothing = Group("No test image was misclassified.", ())
    group = nothing if first is None else members.group(*first, 0)
    figure = figure_of([group], results.config.text_width)
    return shown(lambda: _Matrix(members, first).children, figure)


class _Members:
    """The test images in each cell of the matrix, most confident first."""

    def __init__(self, results: Results) -> None:
        self.counts, self.classes = results.confusion, results.classes
        self.root = results.dataset.root
        columns = ["path", "true", "predicted", "confidence"]
        ordered = results.predictions[columns].sort_values(
            "confidence", ascending=False, kind="stable"
        )
        self.of = dict(tuple(ordered.groupby(["true", "predicted"])))

    def most_confused(self) -> tuple[int, int] | None:
        """Return the off-diagonal cell (row, column) with the most images, or None if all are 0."""
        wrong = self.counts * ~np.eye(len(self.classes), dtype=bool)
        if not wrong.any():
            return None
        row, column = np.unravel_index(wrong.argmax(), wrong.shape)
        return int(row), int(column)

    def group(self, row: int, column: int, start: int) -> Group:
        """Return one page of the images in a cell, beginning at index ``start``."""
        true, predicted = self.classes[row], self.classes[column]
        table = self.of[true, predicted]
        part = table[start : start + PAGE]
        end = start + len(part)
        pictures = [
            Picture(self.root / file, f"{file.split('/')[-1]}\n{100 * confidence:.1f} %")
            for file, confidence in zip(part["path"], part["confidence"], strict=True)
        ]
        numbers = f"{start + 1} to {end} of {len(table):,}, most confident first"
        return Group(f"true: {true}, predicted: {predicted} ({numbers})", pictures)


class _Matrix:
    """The widgets for the matrix, the paging buttons and the images, and the selected cell."""

    def __init__(self, members: _Members, first: tuple[int, int] | None) -> None:
        self.members, self.cell, self.start = members, first, 0
        self.buttons = _buttons(members.counts, members.classes)
        for cell, button in self.buttons.items():
            button.on_click(partial(self.open, cell))
        style, headings = _headings(members.counts, members.classes)
        matrix = widgets.GridBox(
            [headings, *self.buttons.values()], _dom_classes=("thesis-matrix",)
        )
        self.pictures = widgets.HTML()
        self.previous = widgets.Button(description="previous", icon="arrow-left", disabled=True)
        self.next = widgets.Button(description="next", icon="arrow-right", disabled=True)
        self.previous.on_click(partial(self.turn, -PAGE))
        self.next.on_click(partial(self.turn, PAGE))
        pager = widgets.HBox([self.previous, self.next])
        self.children = [style, matrix, pager, self.pictures]
        if first is not None:
            self.open(first)

    def open(self, cell: tuple[int, int], _: widgets.Button | None = None) -> None:
        """Show the first page of images in a cell."""
        if self.cell is not None:
            self.buttons[self.cell].remove_class("chosen")
        self.buttons[cell].add_class("chosen")
        self.cell, self.start = cell, 0
        self.turn(0)

    def turn(self, by: int, _: widgets.Button | None = None) -> None:
        """Move by a number of images, and show that page."""
        if self.cell is None:
            return
        self.start += by
        row, column = self.cell
        self.pictures.value = html_of([self.members.group(row, column, self.start)])
        self.previous.disabled = self.start == 0
        self.next.disabled = self.start + PAGE >= int(self.members.counts[self.cell])


def _buttons(counts: np.ndarray, classes: Sequence[str]) -> dict[tuple[int, int], widgets.Button]:
    """Create a button for each non-empty cell; cells with equal counts share one style."""
    cells = [(int(row), int(column)) for row, column in np.argwhere(counts)]
    filled = [int(counts[cell]) for cell in cells]
    layout, styles = widgets.Layout(), {}
    buttons = {}
    for cell, count, color, ink in zip(
        cells, filled, *figures.results.cell_colors(filled), strict=True
    ):
        row, column = cell
        if count not in styles:
            styles[count] = widgets.ButtonStyle(button_color=color, text_color=ink)
        share = f"{count:,} images, {100 * count / counts[row].sum():.1f} %"
        buttons[cell] = widgets.Button(
            description=str(count),
            tooltip=f"true: {classes[row]}\npredicted: {classes[column]}\n{share}",
            layout=layout,
            style=styles[count],
            _dom_classes=(f"row-{row}", f"column-{column}"),
        )
    return buttons


def _headings(counts: np.ndarray, classes: Sequence[str]) -> tuple[widgets.HTML, widgets.HTML]:
    """Create the style sheet of the matrix, and its grid lines and class names."""
    k = len(classes)
    few = k <= figures.style.NAMED_CLASSES
    height = ROW_OF_FEW if few else ROW
    width = max(height + 4, DIGIT * len(str(counts.max())) + 8)
    places = "\n".join(
        f".thesis-matrix .row-{i} {{ grid-row: {i + 2}; }}\n"
        f".thesis-matrix .column-{i} {{ grid-column: {i + 2}; }}"
        for i in range(k)
    )
    style = STYLE + PLACES.format(k=k, column=width, row=height, places=places)
    parts = ['<div class="lines"></div><div class="name corner">predicted →<br>true ↓</div>']
    for i, name in enumerate(classes):
        true, predicted = counts[i].sum(), counts[:, i].sum()
        shortened = escape(_short(name))
        parts.append(
            f'<div class="name side row-{i}" title="{escape(name)}: {true:,} images">'
            f"{shortened}</div>"
            f'<div class="name top column-{i}" title="{escape(name)}: predicted {predicted:,} '
            f'times">{shortened}</div>'
        )
    return widgets.HTML(style), widgets.HTML("".join(parts), _dom_classes=("headings",))


def _short(name: str) -> str:
    """Shorten a long name to its start and end."""
    if len(name) <= NAME_LETTERS:
        return name
    half = NAME_LETTERS // 2
    return f"{name[:half]}…{name[1 - half :]}"
