"""The one style of all figures: sizes, colours and line styles, and how a figure is saved.

Importing this module sets the style.
"""

import json
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib import font_manager
from matplotlib.figure import Figure

from thesis_lib.system.files import atomic_path

TEXT_WIDTH_MM = 160.0
PAGE_HEIGHT_MM = 230.0  # of A4, with room left for a caption
INCH, POINT = 25.4, 25.4 / 72  # in millimetres
TITLE, BODY, TICK, SMALL, TINY = 9.0, 8.0, 8.0, 7.0, 5.5  # text sizes in points
NAMED_CLASSES = 15  # with more classes than this, axes carry numbers and a key tells the names

PALETTE = sns.color_palette("colorblind").as_hex()
BACKBONE_COLORS = {
    "resnet50": PALETTE[0],
    "seresnext50_32x4d": PALETTE[1],
    "lenet5": PALETTE[2],
    "test_resnet": PALETTE[4],
}
# Nine hues, away from the first three, in three lightnesses: all have a contrast of 3 on white.
OTHER_COLORS = [
    color
    for lightness in (0.3, 0.45, 0.6)
    for color in sns.husl_palette(9, h=20 / 359, s=1, l=lightness).as_hex()
]
COLOR_SEED = 14161  # of all below 20,000, the one that tells the commonest backbones apart best
SPLIT_COLORS = {"train": "0.72", "val": PALETTE[9], "test": "black"}
BATCH_STYLES = {32: ("solid", "o"), 64: ("dashed", "s")}
OTHER_STYLES = [("dotted", "^"), ("dashdot", "v"), ((0, (6, 1)), "P"), ((0, (3, 1, 1, 1)), "X")]
SOURCE = "Source"  # the name of a PNG's text that tells what it was made from
CJK_FONTS = [
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Source Han Sans SC"),
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "IPAexGothic"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "PingFang SC", "Hiragino Sans", "Malgun Gothic"),
]


def set_style(text_width: float = TEXT_WIDTH_MM) -> None:
    """Set the one style of all figures.

    text_width: width of the thesis's text block, in millimetres. Raises ValueError unless it is
    above zero.
    """
    if not text_width > 0:
        raise ValueError(f"text_width is {text_width}; give the thesis's text width in millimetres")
    installed = {font.name for font in font_manager.fontManager.ttflist}
    width = text_width / INCH
    plt.rcParams.update(
        {
            "figure.figsize": (width, 0.62 * width),  # also remembers the text width
            "figure.dpi": 120,
            "savefig.dpi": 300,
            "savefig.bbox": "standard",  # "tight" would change the width that was asked for
            "pdf.fonttype": 42,
            "svg.fonttype": "none",
            "font.family": ["DejaVu Sans", *(font for font in CJK_FONTS if font in installed)],
            "font.size": BODY,
            "axes.titlesize": TITLE,
            "axes.labelsize": BODY,
            "xtick.labelsize": TICK,
            "ytick.labelsize": TICK,
            "legend.fontsize": TICK,
            "legend.frameon": False,
            "text.parse_math": False,  # a class name may hold "$"
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.minor.width": 0.4,
            "ytick.minor.width": 0.4,
            "lines.linewidth": 1.2,
            "lines.markersize": 4,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    # Without a font that has the script, a box is drawn; saying so for every letter helps nobody.
    warnings.filterwarnings("ignore", message=r"Glyph .* missing from")


set_style()


def text_width() -> float:
    """Width in millimetres of a figure that fills the text block."""
    return plt.rcParams["figure.figsize"][0] * INCH


def figure_size(fraction: float, aspect: float) -> tuple[float, float]:
    """Width and height in inches of a figure that fills a fraction of the text width.

    aspect: height / width.
    """
    width = fraction * plt.rcParams["figure.figsize"][0]
    return width, aspect * width


def save(figure: Figure, stem: Path, source: Mapping[str, Any]) -> list[Path]:
    """Write `stem`.pdf and `stem`.png and return their paths.

    Both are finished beside their place and then renamed, so a crash leaves the old ones whole;
    the same data gives the same bytes. Both carry what they were made from, `source`, which JSON
    can hold: the PDF as Subject (`source["line"]`) and Keywords, the PNG as a text of that name.
    """
    stem, told = Path(stem), json.dumps(source)
    metadata = {"Subject": source["line"], "Keywords": told, "CreationDate": None}
    pdf, png = (stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "png"))
    with atomic_path(pdf) as partial_pdf, atomic_path(png) as partial_png:
        figure.savefig(partial_pdf, format="pdf", metadata=metadata)
        figure.savefig(partial_png, format="png", metadata={SOURCE: told})
    return [pdf, png]


def run_color(backbone: str) -> str:
    """Colour of a backbone as a hex string, the same on every figure.

    It follows from the name alone, so two uncommon backbones may share one of the colours.
    """
    other = zlib.crc32(backbone.encode(), COLOR_SEED) % len(OTHER_COLORS)
    return BACKBONE_COLORS.get(backbone, OTHER_COLORS[other])


def run_line_style(batch_size: int) -> dict:
    """Keywords `linestyle` and `marker` that tell a batch size, the same on every figure."""
    other = batch_size.bit_length() % len(OTHER_STYLES)  # powers of two take turns
    linestyle, marker = BATCH_STYLES.get(batch_size, OTHER_STYLES[other])
    return {"linestyle": linestyle, "marker": marker}


def class_numbers(classes: Sequence[str]) -> list[str]:
    """Short labels: the digits that begin each name if all do and differ, otherwise 1 to k."""
    digits = [re.match("[0-9]*", name).group() for name in classes]
    if all(digits) and len(set(digits)) == len(digits):
        return digits
    return [str(i + 1) for i in range(len(classes))]
