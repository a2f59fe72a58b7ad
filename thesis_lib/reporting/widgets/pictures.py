"""Show groups of pictures under headings, as HTML for a widget or as a figure."""

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from thesis_lib import figures
from thesis_lib.data.images import read_pixels
from thesis_lib.errors import InputError

THUMBNAIL = 128  # longest side in px
QUALITY = 90  # JPEG quality; a JPEG takes a third of the bytes of a PNG
STYLE = """<style>
.thesis-pictures { display: flex; flex-wrap: wrap; gap: 8px; margin: 4px 0 12px; }
.thesis-pictures figure { width: 108px; margin: 0; }
.thesis-pictures img, .thesis-pictures .missing {
    box-sizing: border-box; display: block; width: 108px; height: 108px; object-fit: contain;
    border: 1px solid var(--jp-border-color2, #ddd); margin: 0; }
.thesis-pictures .missing { padding: 4px; overflow: hidden; font-size: 11px; line-height: 1.25; }
.thesis-pictures figcaption {
    font-size: 11px; line-height: 1.3; margin-top: 2px; overflow-wrap: anywhere; }
.thesis-heading { font-weight: bold; line-height: 1.3; }
</style>"""


@dataclass(frozen=True)
class Picture:
    """An image file and its caption, with lines separated by newlines."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Group:
    """Pictures under one heading."""

    heading: str
    pictures: Sequence[Picture]


def figure_of(groups: Sequence[Group], text_width: float = figures.style.TEXT_WIDTH_MM) -> Figure:
    """Draw groups as a figure; an unreadable picture is an empty frame above the reason.

    ``text_width`` is the width of the thesis's text block in mm.
    """
    figures.set_style(text_width)
    drawn = []
    for group in groups:
        images: list[np.ndarray | None] = []
        captions = []
        for picture in group.pictures:
            try:
                images.append(read_pixels(picture.path))
                captions.append(picture.caption)
            except InputError as error:
                images.append(None)
                captions.append(f"{picture.caption}\n{_reason(picture.path, error)}")
        drawn.append((group.heading, images, captions))
    return figures.data_set.picture_groups(drawn)


def html_of(groups: Sequence[Group]) -> str:
    """Format groups as HTML with embedded thumbnails; the page must contain :data:`STYLE`."""
    parts = []
    for group in groups:
        parts.append(f'<div class="thesis-heading">{escape(group.heading)}</div>')
        pictures = "".join(_figure_html(picture) for picture in group.pictures)
        parts.append(f'<div class="thesis-pictures">{pictures}</div>')
    return "".join(parts)


def _figure_html(picture: Picture) -> str:
    # Let the browser break a long name after "_" rather than anywhere.
    lines = escape(picture.caption).replace("\n", "<br>").replace("_", "_<wbr>")
    try:
        source = b64encode(_thumbnail(picture.path)).decode()
        shown = f'<img src="data:image/jpeg;base64,{source}" alt="{escape(picture.path.name)}">'
    except InputError as error:
        shown = f'<div class="missing">{escape(_reason(picture.path, error))}</div>'
    title = escape(str(picture.path))
    return f'<figure title="{title}">{shown}<figcaption>{lines}</figcaption></figure>'


def _reason(path: Path, error: InputError) -> str:
    """Return why an image cannot be read, without its path, which is shown next to it."""
    reason = str(error).removeprefix(f"cannot read the image {str(path)!r}: ")
    return f"cannot be read: {reason.removesuffix('; replace or remove it')}"


def _thumbnail(path: Path) -> bytes:
    """Read an image and encode it as a JPEG of at most THUMBNAIL px.

    Raises:
        InputError: if it cannot be read.
    """
    image = Image.fromarray(read_pixels(path))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
