"""Tables and texts as LaTeX: booktabs rules, siunitx columns, nothing wider than the page."""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

import pandas as pd

PACKAGES = ("array", "booktabs", "graphicx", "longtable", "rotating", "siunitx")
LONG_TABLE_ROWS = 40  # with more, a table runs over pages
LETTER_MM, COLUMN_GAP_MM = 1.6, 2.8  # at \footnotesize of a 10 or 11 pt document, on average
SLACK_MM = 5  # since widths are of average letters
LEAST_TEXT_MM = 15  # of a text column that is broken into lines
SMALL, TINY = (
    f"\\{size}\n\\setlength{{\\tabcolsep}}{{{COLUMN_GAP_MM / 2}mm}}\n"
    for size in ("footnotesize", "scriptsize")
)
TINY_SCALE = 0.9  # of \scriptsize to \footnotesize
SIDEWAYS = 1.35  # a table this many times wider than the text is turned rather than shrunk

SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"},
    **{"…": r"\ldots{}", "\n": " ", "`": r"\textasciigrave{}"},
}
TWO_COLUMNS = r"\multicolumn{2}{c}"
NUMBER = re.compile(r"([+-]?)(\d+)(?:\.(\d+))?")
QUANTITY = re.compile(r"[+-]?\d[\d,.]*(?: |$)")  # "11,831 of 12,288 MiB", and no "012_Acartia"
# A number, and what is said of it: "95.10 (94.57 to 95.58)", "95.10 / 37 *".
NUMBER_AND_MORE = re.compile(r"([+-]?\d+(?:\.\d+)?)( [(/].*)")


@dataclass(frozen=True)
class _Column:
    """A column of a tabular: its specification, header and cells as LaTeX; widths in mm."""

    specification: str
    header: str
    cells: list[str]
    cell_width: float
    header_width: float = 0.0

    @property
    def width(self) -> float:
        """What the column takes with its header in one line."""
        return max(self.cell_width, self.header_width)


def escape_latex(text: str) -> str:
    """A plain text as LaTeX prints it."""
    escaped = "".join(SPECIAL.get(character, character) for character in text)
    return re.sub("-(?=-)", "-{}", escaped)  # which else would be a dash


def comment(text: str) -> str:
    """A line that LaTeX passes over."""
    return f"% {' '.join(text.split())}\n"


def latex_table(
    table: pd.DataFrame,
    caption: str,
    label: str,
    text_width: float,
    decimals: int = 2,
    bold: Collection[tuple[int, str]] = (),
) -> str:
    r"""A float with a booktabs table, numbers aligned at their points by siunitx.

    A table wider than the text is shrunk to it, a much wider one turned; one of many rows runs
    over pages, its long texts broken.

    Args:
        table: its cells are printed as they are.
        caption: plain text; its first sentence stands in the list of tables.
        label: of ``\ref``.
        text_width: of the page, mm.
        decimals: of numbers that are not whole.
        bold: (row number, column) of the cells that are printed bold.
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
    """The column with its header turned, where that is much longer than the cells."""
    if column.header_width < 1.5 * column.cell_width or not column.header:
        return column
    before, name = re.fullmatch(r"(\\multicolumn\{2\}\{c\})?\{(.*)\}", column.header).groups("")
    return replace(column, header=f"{before}{{\\rotatebox{{90}}{{{name}}}}}", header_width=0.0)


def first_sentence(text: str) -> str:
    """What stands before the first full stop that ends a sentence."""
    return re.split(r"(?<=[a-z0-9%)])[.:;] ", text.rstrip("."))[0]


def _columns(values: pd.Series, decimals: int, bold: set[int]) -> list[_Column]:
    """One column of LaTeX, or two where a number is followed by more."""
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
    """A column as it is printed: ``predicted_images`` with a blank, a run's name as it is."""
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
    # A cell that begins with "[" or "*" would be taken for an option of the line end before it.
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
    """A table over pages: too wide a one is set smaller, and its texts are broken into lines."""
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
    """Widths in mm of the columns that are broken into lines so that all fit; 0 for the others."""
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
