"""A table as files: CSV, Markdown, LaTeX, and a JSON that tells what it was made from."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from thesis_lib.errors import InputError
from thesis_lib.reporting.latex import PACKAGES, comment, latex_table, spoken
from thesis_lib.system.files import read_json, write_csv, write_json, write_text

ENDINGS = (".csv", ".json", ".md", ".tex")


def write_table(
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
        table: its cells are printed as they are.
        stem: path without an ending.
        caption: plain text.
        source: what it was made from, in words that JSON can hold; ``source["line"]`` says it in
            one line, ``source["label"]`` (where there is one) goes into the LaTeX label.
        decimals: of numbers that are not whole, in Markdown and LaTeX.
        bold: (row number, column) of the cells that are the best by a test.
        text_width: of the page, mm.
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
    """What the JSON beside a table says that it was made from.

    Raises:
        InputError: where it says nothing.
    """
    content = read_json(file)
    source = content.get("source") if isinstance(content, dict) else None
    if not isinstance(source, dict) or not {"part", "data", "settings", "runs"} <= set(source):
        raise InputError(f"{file} does not tell what its table was made from; make it again")
    return source


def markdown(table: pd.DataFrame, decimals: int, bold: Collection[tuple[int, str]] = ()) -> str:
    """A table in Markdown, numbers on the right."""
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table]
    shown = table.map(lambda cell: _in_markdown(cell, decimals)).astype(object)
    for row, column in bold:
        cell = shown[column].iloc[row]
        shown.iloc[row, shown.columns.get_loc(column)] = f"**{cell}**"
    # Texts that look like numbers stay as they are: tabulate would drop their zeros and signs.
    align = ["right" if right else "left" for right in numeric]
    return (
        shown.rename(columns=spoken).to_markdown(index=False, disable_numparse=True, colalign=align)
        + "\n"
    )


def _in_markdown(cell: object, decimals: int) -> str:
    if isinstance(cell, str):
        return cell.replace("|", r"\|")
    if pd.isna(cell):
        return "--"
    return f"{cell:.{decimals}f}" if isinstance(cell, float) else str(cell)
