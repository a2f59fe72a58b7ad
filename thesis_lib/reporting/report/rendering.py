"""Render an executed notebook as HTML that runs no script and loads nothing."""

import re
from base64 import b64encode
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
from markupsafe import Markup
from nbconvert.filters.ansi import ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from thesis_lib.errors import InputError
from thesis_lib.reporting.report.cleaning import Section, cleaned
from thesis_lib.system.paths import relative_to_root

FOLDED_LINES = 20  # longer printed text is folded
PAPERMILL_MARK = "papermill-error-cell-tag"  # tag of the cells that papermill adds to errors
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
OVERWRITTEN = re.compile("[^\n]*\r(?=[^\n])")  # a line that a progress bar has redrawn


def read_notebook(path: Path) -> Any:
    """Read an executed notebook in nbformat version 4, as written by papermill.

    Raises:
        InputError: if the file is not a valid notebook.
    """
    try:
        # nbformat.read would only log problems and continue.
        notebook = nbformat.reader.reads(path.read_text(encoding="utf-8"))
        nbformat.validate(notebook, version=4)
    except (ValueError, KeyError, AttributeError, TypeError, nbformat.ValidationError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"{relative_to_root(path)} is a damaged notebook ({reason}); restore it from a copy, "
            "or remove it and execute it again with `thesis run`"
        ) from None
    return notebook


def title_of(notebook: Any) -> str | None:
    """Return the heading at the start of a notebook, or None if it has none."""
    cells = [c for c in _shown_cells(notebook) if c.cell_type == "markdown"]
    lines = cells[0].source.splitlines() if cells else []
    return lines[0].removeprefix("# ").strip() if lines and lines[0].startswith("# ") else None


def what_failed(notebook: Any) -> str | None:
    """Return the error that stopped a notebook in one line, or None if no cell shows one."""
    outputs = (o for c in notebook.cells for o in c.get("outputs", []))
    error = next((o for o in outputs if o.output_type == "error"), None)
    return error and _plain(f"{error.ename}: {error.evalue}").strip().split("\n")[0]


def rendered(
    notebook: Any, prefix: str, level: int, where: str
) -> tuple[list[Markup], list[Section]]:
    """Render a notebook's cells as HTML, up to the first error.

    Args:
        notebook: as returned by :func:`read_notebook`.
        prefix: prefix of the anchors of its headings, unique on the page.
        level: heading level of the notebook's title, which the page adds itself.
        where: words that identify the notebook in the alternative texts of its figures.

    Returns:
        The blocks of HTML, and the sections below the title.
    """
    page = _Page(prefix, level, where)
    title = title_of(notebook)
    for cell in _shown_cells(notebook):
        if cell.cell_type == "markdown":
            source = cell.source
            if title is not None:  # skip the title, which the page shows itself
                source, title = "\n".join(source.splitlines()[1:]), None
            page.add_sources()
            page.add_markdown(source)
        elif cell.cell_type == "code":
            page.add_code(cell)
            if any(output.output_type == "error" for output in cell.outputs):
                break
    page.add_sources()
    return page.blocks, page.sections


def _shown_cells(notebook: Any) -> list[Any]:
    """Return the cells to show: all but those added by papermill and the final receipt.

    The receipt is not needed because the chapter's warning says whether it is valid.
    """
    tagged = (cell.metadata.get("tags", []) for cell in notebook.cells)
    pairs = zip(notebook.cells, tagged, strict=True)
    cells = [cell for cell, tags in pairs if PAPERMILL_MARK not in tags]
    if cells and cells[-1].source.startswith("write_receipt("):
        cells.pop()
        if cells and cells[-1].cell_type == "markdown":
            cells.pop()
    return cells


class _Page:
    """Collect the HTML of one notebook, cell by cell."""

    def __init__(self, prefix: str, level: int, where: str) -> None:
        self.prefix, self.level, self.where = prefix, level, where
        self.blocks: list[Markup] = []
        self.sections: list[Section] = []
        self.figures = 0
        self.sources: list[str] = []  # code of cells that is not on the page yet

    def add_markdown(self, source: str) -> None:
        """Add a Markdown cell or output."""
        renderer = IPythonRenderer(escape=False, exclude_anchor_links=True)
        self._add_html(MarkdownWithMath(renderer).render(source))

    def add_code(self, cell: Any) -> None:
        """Add a cell's outputs, and its code as a block that the reader can unfold."""
        self.sources.append(_plain(cell.source))
        # Join printed text, as each flush of stdout is a separate output.
        for name, outputs in groupby(cell.outputs, key=lambda output: output.get("name")):
            if name is None:
                for output in outputs:
                    self._add_output(output)
            else:
                self._add_printed("".join(output.text for output in outputs))
        if cell.outputs:
            self.add_sources()

    def add_sources(self) -> None:
        """Add the code of the cells since the last output, below the outputs."""
        code = "\n\n".join(source for source in self.sources if source.strip())
        self.sources = []
        if code:
            folded = '<details class="code"><summary>Code</summary><pre>{}</pre></details>'
            self._add(Markup(folded), code)

    def _add(self, template: Markup, *values: Any) -> None:
        self.blocks.append(template.format(*values))

    def _add_html(self, html: str) -> None:
        block, sections = cleaned(html, self.level, f"{self.prefix}-{len(self.blocks)}")
        self.blocks.append(block)
        self.sections += sections
        self.figures = 0 if sections else self.figures

    def _add_output(self, output: Any) -> None:
        if output.output_type == "error":
            text = "\n".join(output.traceback) or f"{output.ename}: {output.evalue}"
            self._add(Markup('<pre class="error">{}</pre>'), _coloured(text))
            return
        data = output.data
        images = [kind for kind in ("image/png", "image/jpeg", "image/svg+xml") if kind in data]
        if images:
            self._add_figure(images[0], data[images[0]])
        elif "text/html" in data:
            self._add_html(data["text/html"])
        elif "text/markdown" in data:
            self.add_markdown(data["text/markdown"])
        elif "text/plain" in data:
            self._add_printed(data["text/plain"])

    def _add_printed(self, text: str) -> None:
        lines = _plain(text, keep="\x1b").strip("\n").split("\n")
        shown = Markup("<pre>{}</pre>").format(_coloured("\n".join(lines)))
        if len(lines) > FOLDED_LINES:
            folded = '<details class="printed"><summary>{:,} printed lines</summary>{}</details>'
            self._add(Markup(folded), len(lines), shown)
        elif any(lines):
            self.blocks.append(shown)

    def _add_figure(self, kind: str, content: str) -> None:
        self.figures += 1
        heading = self.sections[-1].title if self.sections else "Figure"
        number = f", figure {self.figures}" if self.figures > 1 else ""
        alt = f"{heading}{number}: {self.where}"
        if kind == "image/svg+xml":
            content = b64encode(content.encode()).decode()
        source = f"data:{kind};base64,{''.join(content.split())}"
        self._add(Markup('<figure><img src="{}" alt="{}"></figure>'), source, alt)


def _plain(text: str, keep: str = "") -> str:
    """Remove overwritten lines and control characters, as a terminal would."""
    text = OVERWRITTEN.sub("", text.replace("\r\n", "\n"))
    return CONTROL.sub(lambda found: found[0] if found[0] in keep else "", text)


def _coloured(text: str) -> Markup:
    """Convert ANSI codes to colours and escape everything else."""
    return Markup(_plain(ansi2html(_plain(text, keep="\x1b"))))
