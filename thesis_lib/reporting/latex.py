"""Write tables and text as LaTeX, with booktabs rules and siunitx columns that fit the page."""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

import pandas as pd

PACKAGES = ("array", "booktabs", "graphicx", "longtable", "rotating", "siunitx")
LONG_TABLE_ROWS = 40  # a table with more rows is split over pages
LETTER_MM, COLUMN_GAP_MM = 1.6, 2.8  # average widths at \footnotesize in a 10 or 11 pt document
SLACK_MM = 5  # safety margin, as widths are estimated from an average letter
LEAST_TEXT_MM = 15  # minimum width of a text column that is broken into lines
SMALL, TINY = (
    f"\\{size}\n\\setlength{{\\tabcolsep}}{{{COLUMN_GAP_MM / 2}mm}}\n"
    for size in ("footnotesize", "scriptsize")
)
TINY_SCALE = 0.9  # size of \scriptsize relative to \footnotesize
SIDEWAYS = 1.35  # a table wider than this many text widths is rotated instead of shrunk

SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"},
    **{"…": r"\ldots{}", "\n": " ", "`": r"\textasciigrave{}"},
}
TWO_COLUMNS = r"\multicolumn{2}{c}"
NUMBER = re.compile(r"([+-]?)(\d+)(?:\.(\d+))?")
QUANTITY = re.compile(r"[+-]?\d[\d,.]*(?: |$)")  # "11,831 of 12,288 MiB", but not "012_Acartia"
# A number followed by more text: "95.10 (94.57 to 95.58)", "95.10 / 37 *".
NUMBER_AND_MORE = re.compile(r"([+-]?\d+(?:\.\d+)?)( [(/].*)")


@dataclass(frozen=True)
class _Column:
    """A column of a LaTeX table: specification, header and cells as LaTeX, and widths in mm."""

    specification: str
    header: str
    cells: list[str]
    cell_width: float
    header_width: float = 0.0

    @property
    def width(self) -> float:
        """Width in mm with the header on one line."""
        return max(self.cell_width, self.header_width)


def escape_latex(text: str) -> str:
    """Escape plain text for LaTeX."""
    escaped = "".join(SPECIAL.get(character, character) for character in text)
    return re.sub("-(?=-)", "-{}", escaped)  # LaTeX would join two hyphens into a dash


def comment(text: str) -> str:
    """Return the text as a one-line LaTeX comment."""
    return f"% {' '.join(text.split())}\n"


def latex_table(  # noqa: PLR0913 - most have defaults
    table: pd.DataFrame,
    caption: str,
    label: str,
    text_width: float,
    decimals: int = 2,
    bold: Collection[tuple[int, str]] = (),
) -> str:
    r"""Format a table as a LaTeX float with booktabs rules and decimal-aligned numbers.

    A table wider than the text is shrunk to fit, and a much wider one is rotated. A table with
    many rows is split over pages, with line breaks in long texts.

    Args:
        table: the table; its cells are printed as they are.
        caption: plain text; its first sentence appears in the list of tables.
        label: the label for ``\ref``.
        text_width: width of the text block in mm.
        decimals: number of decimals of floating-point numbers.
        bold: (row index, column) of each cell to print bold.
    """
    columns = [
        column
        for name in table.columns
        for column in _columns(table[name], decimals, {row for row, of in bold if of == name})
    ]
    width = _total_width(columns)
    if width > text_width:
        columns = [_with_upright_header(column) for column in columns]
        width = _total_width(columns)
    lines = {
        "caption": f"\\caption[{escape_latex(first_sentence(caption))}]{{{escape_latex(caption)}}}",
        "label": f"\\label{{{label}}}",
        "header": " & ".join(column.header for column in columns if column.header) + r" \\",
        "rows": "\n".join(
            " & ".join(row) + r" \\" for row in zip(*(c.cells for c in columns), strict=True)
        ),
    }
    if len(table) > LONG_TABLE_ROWS:
        return _long_table(columns, lines, text_width)
    return _floating_table(columns, lines, "sideways" * (width > SIDEWAYS * text_width) + "table")


def _total_width(columns: list[_Column]) -> float:
    return sum(column.width + COLUMN_GAP_MM for column in columns)


def _with_upright_header(column: _Column) -> _Column:
    """Rotate the header of a column if it is much wider than the cells."""
    if column.header_width < 1.5 * column.cell_width or not column.header:
        return column
    header = re.fullmatch(r"(\\multicolumn\{2\}\{c\})?\{(.*)\}", column.header)
    assert header is not None  # every header is in braces
    before, name = header.groups("")
    return replace(column, header=f"{before}{{\\rotatebox{{90}}{{{name}}}}}", header_width=0.0)


def first_sentence(text: str) -> str:
    """Return the first sentence or clause of a text, without its final punctuation."""
    return re.split(r"(?<=[a-z0-9%)])[.:;] ", text.rstrip("."))[0]


def _columns(values: pd.Series, decimals: int, bold: set[int]) -> list[_Column]:
    """Format values as one LaTeX column, or as two if numbers are followed by more text."""
    header = escape_latex(spoken(str(values.name)))
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return [_numbers(_printed(values, decimals), f"{{{header}}}", bold)]
    texts = ["" if pd.isna(value) else str(value) for value in values]
    parted = [NUMBER_AND_MORE.fullmatch(text) for text in texts]
    if any(parted) and all(match or not text for match, text in zip(parted, texts, strict=True)):
        numbers = _numbers(
            [match[1] if match else "" for match in parted],
            f"{TWO_COLUMNS}{{{header}}}",
            bold,
        )
        more = [match[2].strip() if match else "" for match in parted]
        return [numbers, _texts(more, "", "@{\\,\\,}l", set())]
    right = all(QUANTITY.match(text) for text in texts if text) and any(texts)
    return [_texts(texts, f"{{{header}}}", "r" if right else "l", bold)]


def spoken(column: str) -> str:
    """Return a column title for print: ``predicted_images`` gets a space, run names stay as is."""
    return column.replace("_", " ") if column.isidentifier() else column


def _printed(values: pd.Series, decimals: int) -> list[str]:
    if pd.api.types.is_integer_dtype(values):
        return [str(value) for value in values]
    return [f"{value:.{decimals}f}" if math.isfinite(value) else "" for value in values]


def _numbers(texts: list[str], header: str, bold: set[int]) -> _Column:
    parts = [match.groups("") for text in texts if (match := NUMBER.fullmatch(text))]
    whole = max((len(part[1]) for part in parts), default=1)
    after = max((len(part[2]) for part in parts), default=0)
    sign = "-" if any(part[0] for part in parts) else ""
    # Printed as text, digits can be bold.
    digits = f"{sign}{whole}.{after}" if after else f"{sign}{whole}"
    specification = f"S[table-format={digits},mode=text]"
    cells = [
        (r"\bfseries " if row in bold else "") + (text or "{--}") for row, text in enumerate(texts)
    ]
    title = header.removeprefix(TWO_COLUMNS).strip("{}")
    width, title_width = LETTER_MM * len(digits), LETTER_MM * len(title)
    return _Column(specification, header, cells, width, title_width)


def _texts(texts: list[str], header: str, specification: str, bold: set[int]) -> _Column:
    escaped = [escape_latex(text) for text in texts]
    cells = [
        f"{{\\bfseries {text}}}" if row in bold else _no_option(text)
        for row, text in enumerate(escaped)
    ]
    longest = max((len(text) for text in texts), default=0)
    title_width = LETTER_MM * len(header.strip("{}"))
    return _Column(specification, header, cells, LETTER_MM * longest, title_width)


def _no_option(text: str) -> str:
    # LaTeX would read a cell that starts with "[" or "*" as an option of the preceding "\\".
    return f"{{{text}}}" if text.startswith(("[", "*")) else text


def _floating_table(columns: list[_Column], lines: dict[str, str], environment: str) -> str:
    specification = "".join(column.specification for column in columns)
    placement = "[htbp]" if environment == "table" else "[p]"
    return (
        f"\\begin{{{environment}}}{placement}\n\\centering\n{SMALL}"
        f"{lines['caption']}\n{lines['label']}\n"
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
        f"\\begin{{tabular}}{{{specification}}}\n\\toprule\n{lines['header']}\n\\midrule\n"
        f"{lines['rows']}\n\\bottomrule\n\\end{{tabular}}}}\n\\end{{{environment}}}\n"
    )


def _long_table(columns: list[_Column], lines: dict[str, str], text_width: float) -> str:
    """Format a table that spans pages; if it is too wide, use a smaller font and break lines."""
    fits = _total_width(columns) + SLACK_MM <= text_width
    size, scale = (SMALL, 1.0) if fits else (TINY, TINY_SCALE)
    widths = _broken_widths(columns, text_width, scale)
    specification = "".join(
        f">{{\\raggedright\\arraybackslash}}p{{{width:.1f}mm}}" if width else column.specification
        for column, width in zip(columns, widths, strict=True)
    )
    head = f"\\toprule\n{lines['header']}\n\\midrule\n"
    return (
        f"{{{size}\\begin{{longtable}}{{{specification}}}\n"
        f"{lines['caption']}\n{lines['label']} \\\\\n{head}\\endfirsthead\n{head}\\endhead\n"
        f"\\midrule\n\\multicolumn{{{len(columns)}}}{{r}}{{continued}} \\\\\n\\endfoot\n"
        f"\\bottomrule\n\\endlastfoot\n{lines['rows']}\n\\end{{longtable}}}}\n"
    )


def _broken_widths(columns: list[_Column], text_width: float, scale: float) -> list[float]:
    """Return the widths in mm of the text columns that need line breaks, and 0 for the others."""
    gaps = COLUMN_GAP_MM * len(columns)
    missing = scale * sum(column.width for column in columns) + gaps + SLACK_MM - text_width
    texts = [c for c in columns if c.specification == "l" and c.width > LEAST_TEXT_MM]
    if missing <= 0 or not texts:
        return [0.0] * len(columns)
    share = 1 - missing / (scale * sum(column.width for column in texts))
    return [
        max(LEAST_TEXT_MM, share * scale * column.width) if column in texts else 0.0
        for column in columns
    ]
