"""Write a table as CSV, Markdown and LaTeX, with a JSON file that records its sources."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from thesis_lib.errors import InputError
from thesis_lib.reporting.latex import PACKAGES, comment, latex_table, spoken
from thesis_lib.system.files import read_json, write_csv, write_json, write_text

ENDINGS = (".csv", ".json", ".md", ".tex")


def write_table(  # noqa: PLR0913 - most have defaults
    table: pd.DataFrame,
    stem: Path,
    caption: str,
    source: Mapping[str, Any],
    decimals: int = 2,
    bold: Collection[tuple[int, str]] = (),
    text_width: float = 160.0,
) -> list[Path]:
    """Write a table as ``stem.csv``, ``stem.json``, ``stem.md`` and ``stem.tex``.

    Args:
        table: the table; its cells are printed as they are.
        stem: path without a suffix.
        caption: plain text.
        source: what the table was computed from, as JSON values; ``source["line"]`` summarises
            it in one line, and ``source["label"]``, if present, becomes part of the LaTeX label.
        decimals: number of decimals of floating-point numbers in Markdown and LaTeX.
        bold: (row index, column) of each cell to print bold.
        text_width: width of the text block in mm.

    Returns:
        The four files.
    """
    paths = [stem.with_name(stem.name + ending) for ending in ENDINGS]
    write_csv(paths[0], table)
    write_json(paths[1], {"caption": caption, "source": source})
    write_text(paths[2], markdown(table, decimals, bold))
    label = ":".join(filter(None, ("tab", source.get("label"), stem.name)))
    latex = latex_table(table, caption, label, text_width, decimals, bold)
    needed = comment(f"needs the packages {', '.join(PACKAGES)}")
    write_text(paths[3], comment(source["line"]) + needed + latex)
    return paths


def read_source(file: Path) -> dict[str, Any]:
    """Read the sources of a table from the JSON file next to it.

    Raises:
        InputError: if the file does not record them.
    """
    content = read_json(file)
    source = content.get("source") if isinstance(content, dict) else None
    if not isinstance(source, dict) or not {"part", "data", "settings", "runs"} <= set(source):
        raise InputError(f"{file} does not record the sources of its table; write the table again")
    return source


def markdown(table: pd.DataFrame, decimals: int, bold: Collection[tuple[int, str]] = ()) -> str:
    """Format a table as Markdown, with numbers aligned right."""
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table]
    shown = table.map(lambda cell: _in_markdown(cell, decimals)).astype(object)
    for row, column in bold:
        cell = shown[column].iloc[row]
        shown.iloc[row, shown.columns.get_loc(column)] = f"**{cell}**"
    # Keep texts that look like numbers: tabulate would drop their leading zeros and signs.
    align = ["right" if right else "left" for right in numeric]
    return (
        shown.rename(columns=spoken).to_markdown(index=False, disable_numparse=True, colalign=align)
        + "\n"
    )


def _in_markdown(cell: object, decimals: int) -> str:
    if isinstance(cell, str):
        return re.sub(r"([|<`])", r"\\\1", cell)  # "egg<other" is no HTML
    if pd.isna(cell):
        return "--"
    return f"{cell:.{decimals}f}" if isinstance(cell, float) else str(cell)
