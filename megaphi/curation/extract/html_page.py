"""An HTML page of documentation as a list of blocks: headings, paragraphs, terms, list items, code.

Only the page's main element counts: navigation, footers, scripts and link marks are left out. Code
keeps its line breaks; a term keeps its name and its kind ("N", "int"), so that a rewriter can ask about it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Literal

Kind = Literal["heading", "paragraph", "term", "item", "code"]

_SKIPPED = {"script", "style", "nav", "footer", "button", "svg", "form", "figure"}
_BLOCKS: dict[str, Kind] = {
    "h1": "heading",
    "h2": "heading",
    "h3": "heading",
    "h4": "heading",
    "p": "paragraph",
    "li": "item",
    "dt": "term",
    "pre": "code",
}
_VOID = {"br", "img", "hr", "input", "meta", "link", "col", "source"}


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a page."""

    kind: Kind
    text: str
    detail: str = ""
    """Kind of a term, as in `N : int`; level of a heading."""


@dataclass(frozen=True, slots=True)
class Page:
    """The blocks of a page, in reading order."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def text(self) -> str:
        """The page as plain text."""
        return "\n\n".join(_rendered(block) for block in self.blocks)


def _rendered(block: Block) -> str:
    if block.kind == "heading":
        return f"{'#' * int(block.detail)} {block.text}"
    if block.kind == "item":
        return f"- {block.text}"
    if block.kind == "term" and block.detail:
        return f"{block.text} : {block.detail}"
    return block.text


def read_page(html: str) -> Page:
    """Parse one page; a page without a main element gives no blocks."""
    reader = _PageReader()
    reader.feed(html)
    reader.close()
    reader.finish_block()
    headings = [block.text for block in reader.blocks if block.kind == "heading"]
    return Page(title=headings[0] if headings else "", blocks=tuple(reader.blocks))


@dataclass
class _Open:
    """The block that is being read."""

    kind: Kind
    level: str
    parts: list[str] = field(default_factory=list)
    detail: list[str] = field(default_factory=list)


def _kind(tag: str, classes: list[str]) -> Kind | None:
    """The kind of block that an element opens: displayed formulas are separate paragraphs."""
    if "rubric" in classes:
        return "heading"
    return "paragraph" if tag == "div" and "math" in classes else _BLOCKS.get(tag)


class _PageReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self._main_depth = 0
        self._skip_depth = 0
        self._classifier_depth = 0
        self._block: _Open | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        classes = attributes.get("class", "").split()
        if tag in _VOID:
            if tag == "br":
                self.handle_data("\n")
            return
        if tag == "main" or attributes.get("role") == "main" or self._main_depth:
            self._main_depth += 1
        if self._skip_depth or tag in _SKIPPED or "headerlink" in classes or "prev-next-area" in classes:
            self._skip_depth += 1
            return
        if self._classifier_depth or "classifier" in classes:
            self._classifier_depth += 1
        kind = _kind(tag, classes)
        if kind is not None and self._main_depth:
            self.finish_block()
            self._block = _Open(kind, level=tag[1] if tag[0] == "h" else "2")

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        if (tag in _BLOCKS or tag == "div") and not self._skip_depth:
            self.finish_block()
        self._main_depth = max(0, self._main_depth - 1)
        self._skip_depth = max(0, self._skip_depth - 1)
        self._classifier_depth = max(0, self._classifier_depth - 1)

    def handle_data(self, data: str) -> None:
        if self._block is None or self._skip_depth or not self._main_depth:
            return
        (self._block.detail if self._classifier_depth else self._block.parts).append(data)

    def finish_block(self) -> None:
        """Close the block that is open, and keep it if it says anything."""
        block, self._block = self._block, None
        if block is None:
            return
        joined = "".join(block.parts)
        text = joined.strip("\n") if block.kind == "code" else " ".join(joined.split())
        detail = block.level if block.kind == "heading" else " ".join("".join(block.detail).split())
        if text.strip():
            self.blocks.append(Block(block.kind, text, detail))
