"""Sanitise the HTML of notebooks and adjust its headings to a page with many notebooks."""

from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser

from markupsafe import Markup

# The tags allowed in outputs and Markdown; all others are shown as text.
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
VOID = ("br", "hr")
TAGS = {
    *("table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "div", "p", "span", "b"),
    *("strong", "i", "em", "u", "s", "del", "sub", "sup", "small", "code", "pre", "kbd"),
    *("blockquote", "ul", "ol", "li", "dl", "dt", "dd", *HEADINGS, *VOID),
}
ATTRIBUTES = ("colspan", "rowspan", "start")


@dataclass(frozen=True)
class Section:
    """A heading that is listed in the table of contents."""

    anchor: str
    title: str


def cleaned(html: str, level: int, prefix: str) -> tuple[Markup, list[Section]]:
    """Keep the harmless tags of some HTML and show all others as text.

    The result contains no script, style, link or image, and every tag is closed. Wide tables
    can be scrolled.

    Args:
        html: HTML from Markdown or from the output of a cell.
        level: heading level for ``<h1>``; the other headings are shifted by the same amount.
        prefix: prefix of the headings' anchors, unique on the page.

    Returns:
        The HTML, and its headings.
    """
    cleaner = _Cleaner(level, prefix)
    cleaner.feed(html)
    cleaner.close()
    return cleaner.finished(), cleaner.sections


class _Cleaner(HTMLParser):
    def __init__(self, level: int, prefix: str) -> None:
        super().__init__()
        self.level, self.prefix = level, prefix
        self.parts: list[str] = []
        self.open: list[str] = []  # open tags, as written in the source
        self.links: list[tuple[str, int]] = []  # target, and index in parts where its text starts
        self.heading: list[str] = []  # text of the open heading
        self.sections: list[Section] = []
        self.in_style = False  # pandas adds a style element to each table

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "style":
            self.in_style = True
        elif tag == "a":
            self.links.append((dict(attrs).get("href") or "", len(self.parts)))
        elif tag not in TAGS:
            self._text(self.get_starttag_text() or "")
        elif tag in VOID:
            self.parts.append(f"<{tag}>")
        else:
            self._open(tag, attrs)

    def _open(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kept = [(name, value or "") for name, value in attrs if name in ATTRIBUTES]
        if tag in HEADINGS:
            self.heading = []
            kept.append(("id", f"{self.prefix}-{len(self.sections) + 1}"))
        if tag == "table":
            self.parts.append('<div class="wide" tabindex="0" role="region" aria-label="Table">')
        attributes = "".join(f' {name}="{escape(value)}"' for name, value in kept)
        self.parts.append(f"<{self._name(tag)}{attributes}>")
        self.open.append(tag)

    def _name(self, tag: str) -> str:
        """Return the tag's name on the page, where heading levels are shifted."""
        if tag not in HEADINGS:
            return tag
        return f"h{min(6, int(tag[1]) + self.level - 1)}"

    def handle_endtag(self, tag: str) -> None:
        if tag == "style":
            self.in_style = False
        elif tag == "a":
            self._end_link()
        elif tag not in TAGS:
            self._text(f"</{tag}>")
        elif tag in self.open:
            while self._close() != tag:
                pass

    def _close(self) -> str:
        tag = self.open.pop()
        self.parts.append(f"</{self._name(tag)}>")
        if tag == "table":
            self.parts.append("</div>")
        if tag in HEADINGS:
            anchor = f"{self.prefix}-{len(self.sections) + 1}"
            self.sections.append(Section(anchor, " ".join("".join(self.heading).split())))
        return tag

    def _end_link(self) -> None:
        """Write a link's address after its text, as the page contains no links to elsewhere."""
        target, start = self.links.pop() if self.links else ("", 0)
        words = "".join(self.parts[start:])
        if not target.startswith("#") and escape(target) not in words:
            self._text(f" ({target})")

    def handle_data(self, data: str) -> None:
        if not self.in_style:
            self._text(data)

    def _text(self, text: str) -> None:
        self.parts.append(escape(text))
        self.heading.append(text)

    def finished(self) -> Markup:
        """Close all open tags and return the HTML."""
        while self.open:
            self._close()
        return Markup("".join(self.parts))
