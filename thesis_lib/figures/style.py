"""The common style of all figures (sizes, colours, line styles), and how to save a figure."""

import json
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
PAGE_HEIGHT_MM = 230.0  # usable height of an A4 page, with room left for a caption
INCH, POINT = 25.4, 25.4 / 72  # in millimetres
SAVED_DPI = 300  # of PNG files, in dots per inch
TITLE, BODY, TICK, SMALL, TINY = 9.0, 8.0, 8.0, 7.0, 5.5  # font sizes in points
NAMED_CLASSES = 15  # with more classes than this, axes show numbers and a key gives the names

PALETTE = sns.color_palette("colorblind").as_hex()
BACKBONE_COLORS = {
    "resnet50": PALETTE[0],
    "seresnext50_32x4d": PALETTE[1],
    "lenet5": PALETTE[2],
    "test_resnet": PALETTE[4],
}
# Nine hues, distinct from the first three, at three lightness levels. All of them have a contrast
# ratio of at least 3 on white.
OTHER_COLORS = [
    color
    for lightness in (0.3, 0.45, 0.6)
    for color in sns.husl_palette(9, h=20 / 359, s=1, l=lightness).as_hex()
]
COLOR_SEED = 14161  # of all seeds below 20,000, this one separates common backbones best
SPLIT_COLORS = {"train": "0.72", "val": PALETTE[9], "test": "black"}
BATCH_STYLES = {32: ("solid", "o"), 64: ("dashed", "s")}
OTHER_STYLES = [("dotted", "^"), ("dashdot", "v"), ((0, (6, 1)), "P"), ((0, (3, 1, 1, 1)), "X")]
SOURCE = "Source"  # key of the PNG text chunk that records what the figure was made from
CJK_FONTS = [
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Source Han Sans SC"),
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "IPAexGothic"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "PingFang SC", "Hiragino Sans", "Malgun Gothic"),
]


def set_style(text_width: float = TEXT_WIDTH_MM) -> None:
    """Set the style of all figures.

    text_width: width of the thesis's text block in millimetres. Raises ValueError unless it is
    positive.
    """
    if not text_width > 0:
        raise ValueError(f"text_width is {text_width}; give the thesis's text width in millimetres")
    installed = {font.name for font in font_manager.fontManager.ttflist}
    width = text_width / INCH
    plt.rcParams.update(
        {
            "figure.figsize": (width, 0.62 * width),  # text_width() reads the width from here
            "figure.dpi": 120,
            "savefig.dpi": SAVED_DPI,
            "savefig.bbox": "standard",  # "tight" would change the figure's width
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
            "text.parse_math": False,  # a class name may contain "$"
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
    # Letters that no installed font has are drawn as boxes; a warning per letter is just noise.
    warnings.filterwarnings("ignore", message=r"Glyph .* missing from")


def text_width() -> float:
    """Return the width in millimetres of a figure that fills the text block."""
    return plt.rcParams["figure.figsize"][0] * INCH


def figure_size(fraction: float, aspect: float) -> tuple[float, float]:
    """Return the width and height, in inches, of a figure that fills a fraction of the text width.

    aspect: height / width.
    """
    width = fraction * plt.rcParams["figure.figsize"][0]
    return width, aspect * width


def save(figure: Figure, stem: Path, source: Mapping[str, Any]) -> list[Path]:
    """Write `stem`.pdf and `stem`.png and return their paths.

    Both are written to temporary files and then renamed, so a crash leaves existing files intact.
    The same data gives the same bytes.

    source: what the figure was made from, a mapping that JSON can hold. It is stored in both
    files: in the PDF as Subject (`source["line"]`) and Keywords (all of it), in the PNG as the
    text chunk "Source".
    """
    stem, source_text = Path(stem), json.dumps(source)
    metadata = {"Subject": source["line"], "Keywords": source_text, "CreationDate": None}
    pdf, png = (stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "png"))
    with atomic_path(pdf) as partial_pdf, atomic_path(png) as partial_png:
        figure.savefig(partial_pdf, format="pdf", metadata=metadata)
        figure.savefig(partial_png, format="png", metadata={SOURCE: source_text})
    return [pdf, png]


def run_color(backbone: str) -> str:
    """Return the colour of a backbone as a hex string; it is the same in every figure.

    The colour depends only on the name, so two uncommon backbones may have the same colour.
    """
    other = zlib.crc32(backbone.encode(), COLOR_SEED) % len(OTHER_COLORS)
    return BACKBONE_COLORS.get(backbone, OTHER_COLORS[other])


def run_line_style(batch_size: int) -> dict:
    """Return the `linestyle` and `marker` keywords for a batch size, the same in every figure."""
    other = batch_size.bit_length() % len(OTHER_STYLES)  # successive powers of two differ
    linestyle, marker = BATCH_STYLES.get(batch_size, OTHER_STYLES[other])
    return {"linestyle": linestyle, "marker": marker}


def class_numbers(classes: Sequence[str]) -> list[str]:
    """Return a short label for each of the k classes.

    The labels are the leading digits of the class names if every name has some and they are all
    different; otherwise they are 1 to k.
    """
    digits = [name[: len(name) - len(name.lstrip("0123456789"))] for name in classes]
    if all(digits) and len(set(digits)) == len(digits):
        return digits
    return [str(i + 1) for i in range(len(classes))]
