"""A page as a list of blocks in reading order: paragraphs, headings, code, tables, formulas, and the lists they are in.

One walk over the tree. Text and inline elements gather in a run; whatever begins or ends a block closes the run. Code
and formulas within a run stand behind one private character each until its white space is put in order, so that
nothing touches them. Each block knows the element that it came from: who decides what is content speaks of elements.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import lxml.etree as etree

from megaphi.curation.extract.html import tables
from megaphi.curation.extract.html.code import PREFORMATTED, code_of, fenced, inline_code, is_code_table, language_of
from megaphi.curation.extract.html.formulas import ATTRIBUTE, DISPLAY
from megaphi.curation.extract.html.tree import classes, text_of

Kind = Literal["paragraph", "heading", "code", "table", "formula"]
BLOCKS = frozenset(
    "p div section article main header footer aside nav ul ol li dl dt dd blockquote h1 h2 h3 h4 h5 h6 hr figure "
    "figcaption address details summary fieldset legend form center body html table thead tbody tfoot tr td th caption "
    "hgroup menu dir search".split()
)
MOST_LINKS = 0.5
"""Share of a block's characters in links, above which it may be navigation."""
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_INLINE_CODE = frozenset({"code", "tt", "samp", "kbd"})
_EMPHASIS = {"strong": "**", "b": "**", "em": "*", "i": "*"}
_HELD, _OPEN, _CLOSE = "\ue000", "\ue001", "\ue002"
_PRIVATE = re.compile("[\ue000-\ue002]")
_LABEL = re.compile(r"\[[\w+.-]{1,20}\]")
_SPACE = re.compile(r"[ \t\r\n\f\v\u00a0]+")
_EMPTY_MARKS = re.compile(rf"{_OPEN}(\*+)(\s*){_CLOSE}\1")
_OPENING, _CLOSING = re.compile(rf"{_OPEN}(\*+)(\s*)"), re.compile(rf"(\s*){_CLOSE}(\*+)")


@dataclass(eq=False, slots=True)
class Container:
    """A list item or quotation around blocks: what its first line begins with, and the others."""

    first: str
    rest: str


@dataclass(eq=False, slots=True)
class PageBlock:
    """A piece of a page that is kept or dropped as one."""

    kind: Kind
    text: str
    """Markdown, without what the containers put in front of its lines."""
    element: Any
    """The element that it begins in."""
    slot: Literal["text", "tail"]
    containers: tuple[Container, ...] = ()
    level: int = 0
    """The level of a heading."""
    link_characters: int = 0
    formulas: int = 0
    code: str = ""
    """The characters of a listing."""
    code_end: Any = None
    """The last element of a listing."""
    is_term: bool = False
    """True for a term of a definition list."""

    @property
    def is_links(self) -> bool:
        """True where most of it leads elsewhere."""
        return self.link_characters > MOST_LINKS * len(self.text)

    @property
    def is_label(self) -> bool:
        return self.kind == "paragraph" and _LABEL.fullmatch(self.text) is not None


@dataclass
class _Run:
    """Text and inline elements that make one block."""

    parts: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    element: Any = None
    slot: Literal["text", "tail"] = "text"
    link_characters: int = 0
    formulas: int = 0


def blocks_of(root: Any) -> list[PageBlock]:
    """The blocks of the tree, in order."""
    walk = _Walk()
    walker = etree.iterwalk(root, events=("start", "end"))
    for event, element in walker:
        if event == "start":
            if walk.start(element):
                walker.skip_subtree()
        else:
            walk.end(element, element is root)
    walk.close()
    return _with_labels(walk.blocks)


def _with_labels(blocks: list[PageBlock]) -> list[PageBlock]:
    """The blocks, with the label of a note or reference in front of its text instead of in a line of its own."""
    joined: list[PageBlock] = []
    for block in blocks:
        before = joined[-1] if joined else None
        if before is not None and before.is_label and block.kind == "paragraph":
            joined.pop()
            block.text = f"{before.text} {block.text}"
        joined.append(block)
    return joined


class _Walk:
    """The state of the walk."""

    def __init__(self) -> None:
        self.blocks: list[PageBlock] = []
        self._run = _Run()
        self._containers: list[Container] = []
        self._added: dict[Any, int] = {}
        self._lists: list[tuple[Any, int]] = []
        self._links = 0
        self._level = 1
        self._heading = 0
        self._signature = False
        self._term = False
        self._whole = False

    def start(self, element: Any) -> bool:
        """Begin an element. Returns whether all of it is done."""
        tag = element.tag
        if not isinstance(tag, str):
            return True
        if self._whole_block(element, tag):
            self._whole = True
            return True
        if tag in BLOCKS or self._is_source(tag):
            self.close()
            self._open_block(element, tag)
        elif tag == "a":
            self._links += 1
        elif tag in _INLINE_CODE and not self._signature:
            self._hold(inline_code(text_of(element)), element)
            self._whole = True
            return True
        elif tag in _EMPHASIS and not (self._heading or self._signature):
            self._run.parts.append(_OPEN + _EMPHASIS[tag])
        elif tag in ("sup", "sub"):
            self._script(element, tag)
        elif tag == "br":
            self._run.parts.append(_HELD)
            self._run.held.append("\n")
        elif "classifier" in classes(element):
            self._run.parts.append(" : ")
        self._add(element.text, element, "text")
        return False

    def end(self, element: Any, is_root: bool) -> None:
        tag = element.tag
        if not isinstance(tag, str):
            return
        if self._whole:
            self._whole = False
        elif tag in BLOCKS or self._is_source(tag):
            self.close()
            self._close_block(element, tag)
        elif tag == "a":
            self._links -= 1
        elif tag in _EMPHASIS and not (self._heading or self._signature):
            self._run.parts.append(_CLOSE + _EMPHASIS[tag])
        elif tag == "q":
            self._run.parts.append('"')
        if not is_root:
            self._add(element.tail, element, "tail")

    def close(self) -> None:
        """End the run: it becomes a block if there is anything in it."""
        run, self._run = self._run, _Run()
        if run.element is None:
            return
        text = _joined(run)
        if not text:
            return
        if self._heading:
            text = " ".join(text.split())
        if self._signature:
            text = inline_code(text.lstrip(": "))
        kind: Kind = "heading" if self._heading else "paragraph"
        self._append(
            kind, text, run.element, run.slot,
            level=self._heading, link_characters=run.link_characters, formulas=run.formulas, is_term=self._term,
        )  # fmt: skip

    def _append(self, kind: Kind, text: str, element: Any, slot: Literal["text", "tail"] = "text", **more: Any) -> None:
        self.blocks.append(PageBlock(kind, text, element, slot, tuple(self._containers), **more))

    def _add(self, text: str | None, element: Any, slot: Literal["text", "tail"]) -> None:
        if not text:
            return
        run = self._run
        if run.element is None:
            if text.isspace():
                return
            run.element, run.slot = element, slot
        run.parts.append(_PRIVATE.sub("", text))
        if self._links:
            run.link_characters += len(text.strip())

    def _hold(self, text: str, element: Any) -> None:
        """Add text that must stay as it is."""
        if not text:
            return
        if self._run.element is None:
            self._run.element, self._run.slot = element, "text"
        if self._links:
            self._run.link_characters += len(text)
        self._run.parts.append(_HELD)
        self._run.held.append(text)

    def _whole_block(self, element: Any, tag: str) -> bool:
        """Take elements that are one block, or one held piece, with everything in them."""
        if tag == "span":
            form = element.get(ATTRIBUTE)
            if form is None:
                return False
            if form == DISPLAY and not self._heading:
                self.close()
                self._append("formula", element.text or "", element, formulas=1)
            else:
                self._hold(element.text or "", element)
                self._run.formulas += 1
            return True
        if tag in PREFORMATTED or (tag == "table" and is_code_table(element)):
            self.close()
            code, language = code_of(element), language_of(element)
            if code.strip() and not self._continues(element, code):
                self._append("code", fenced(code, language), element, code=code, code_end=element)
            return True
        if tag == "table" and not tables.is_layout(element):
            self.close()
            self._table(element)
            return True
        return False

    def _continues(self, listing: Any, code: str) -> bool:
        """Add a listing to the one before it if both are parts of one example, as Texinfo writes them."""
        last = self.blocks[-1] if self.blocks else None
        before = listing.getprevious()
        if last is None or last.kind != "code" or before is None or before.tag != "pre" or (before.tail or "").strip():
            return False
        if last.code_end is not before or "example" not in classes(listing.getparent()):
            return False
        last.code = last.code.rstrip("\n") + "\n" + code
        last.text, last.code_end = fenced(last.code, language_of(listing)), listing
        return True

    def _table(self, table: Any) -> None:
        formulas = sum(1 for span in table.iter("span") if span.get(ATTRIBUTE))
        grid = tables.grid_of(table, _cell_text)
        caption = next(table.iterchildren("caption"), None)
        if caption is not None and text_of(caption).strip():
            self._append("paragraph", _cell_text(caption), caption)
        if not any(any(row) for row in grid):
            return
        links = sum(len(text_of(link).strip()) for link in table.iter("a"))
        if len(grid) == 1:
            line = " ".join(cell for cell in grid[0] if cell)
            self._append("paragraph", line, table, formulas=formulas, link_characters=links)
            return
        text = tables.markdown_table(grid, tables.header_rows(table))
        self._append("table", text, table, formulas=formulas, link_characters=links)

    def _script(self, element: Any, tag: str) -> None:
        """Exponents and indices; not the marks of notes, which are links."""
        if element.find(".//a") is None and not self._links and len(text_of(element)) <= 20:
            self._run.parts.append("^" if tag == "sup" else "_")

    def _open_block(self, element: Any, tag: str) -> None:
        if tag in _HEADINGS:
            self._heading = self._level = _HEADINGS[tag]
        elif tag == "p" and "rubric" in classes(element):
            self._heading = min(self._level + 1, 6)
        elif tag in ("ul", "ol", "menu", "dir"):
            self._lists.append((element, _first_number(element)))
        elif tag == "dl":
            self._lists.append((element, -1 if _is_list_of_terms(element) else -2))
        elif tag in ("li", "dt"):
            self._term = tag == "dt"
            self._open_item(element, tag)
        elif tag == "blockquote" and not _is_indentation(element):
            self._push(element, Container("> ", "> "))
        self._signature = self._signature or (tag == "dt" and _is_signature(element))

    def _open_item(self, element: Any, tag: str) -> None:
        owner, number = self._lists[-1] if self._lists else (None, 0)
        if tag == "dt":
            if number == -1:
                self._drop_term()
                self._push(owner, Container("- ", "  "))
            return
        if number > 0:
            self._lists[-1] = (owner, number + 1)
        marker = f"{number}. " if number > 0 else "- "
        self._push(element, Container(marker, " " * len(marker)))

    def _push(self, element: Any, container: Container) -> None:
        self._added[element] = len(self._containers)
        self._containers.append(container)

    def _is_source(self, tag: str) -> bool:
        """True where an element says whom a quotation is from: a line of its own."""
        return tag == "cite" and bool(self._containers) and self._containers[-1].first == "> "

    def _pop(self, element: Any) -> None:
        depth = self._added.pop(element, None)
        if depth is not None:
            del self._containers[depth:]

    def _drop_term(self) -> None:
        if self._lists:
            self._pop(self._lists[-1][0])

    def _close_block(self, element: Any, tag: str) -> None:
        if tag in ("ul", "ol", "menu", "dir", "dl"):
            if self._lists:
                self._pop(self._lists.pop()[0])
        elif tag in ("li", "blockquote"):
            self._pop(element)
        elif tag == "dt":
            self._signature = self._term = False
        if tag in _HEADINGS or tag == "p":
            self._heading = 0


def _joined(run: _Run) -> str:
    """The run's text: white space in order, marks of emphasis next to their words, held pieces in their places."""
    text = _SPACE.sub(" ", "".join(run.parts))
    if text.count(_OPEN) != text.count(_CLOSE):
        text = re.sub(rf"[{_OPEN}{_CLOSE}]\*+", "", text)
    elif _OPEN in text:
        text = _EMPTY_MARKS.sub(r"\2", text)
        text = _CLOSING.sub(r"\2\1", _OPENING.sub(r"\2\1", text))
        text = re.sub(" {2,}", " ", text)
    held = iter(run.held)
    text = re.sub(_HELD, lambda _: next(held), text)
    lines = [line.strip() for line in text.split("\n")] if "\n" in run.held else [text.strip()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip().strip("*" if not text.strip(" *") else "")


def _cell_text(cell: Any) -> str:
    """A table cell as one line."""
    pieces = []
    for block in blocks_of(cell):
        text = inline_code(block.code) if block.kind == "code" else block.text
        pieces.append(" ".join(text.split()))
    return " ".join(pieces)


def _first_number(element: Any) -> int:
    """The number of the first item; 0 in a list without numbers."""
    if element.tag != "ol":
        return 0
    start = element.get("start", "1").strip()
    return int(start) if start.isdecimal() and 0 < int(start[:6]) < 100_000 else 1


def _is_list_of_terms(element: Any) -> bool:
    """True where a definition list is short enough to be written as items: one of signatures or sections is not."""
    if any(element.find(path) is not None for path in ("./dd//pre", "./dd//dl", "./dd//table", ".//h3")):
        return False
    if any(_is_signature(term) for term in element.iterchildren("dt")):
        return False
    return all(sum(1 for _ in term.iterdescendants("p", "li")) <= 6 for term in element.iterchildren("dd"))


def _is_signature(term: Any) -> bool:
    """True where a term declares a function or class, as Sphinx and Texinfo write them."""
    if classes(term) & {"sig", "sig-object", "def-line"}:
        return True
    owner = term.getparent()
    return owner is not None and any(name == "def" or name.startswith(("first-def", "def-")) for name in classes(owner))


def _is_indentation(element: Any) -> bool:
    """True where a quotation is none: docutils writes indented text so."""
    if element.get("class") or len(element) != 1 or (element.text or "").strip():
        return False
    return element[0].tag == "div" and not element[0].attrib and element[0].find("cite") is None
