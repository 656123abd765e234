"""HTML and SVG as text in which nothing of a stranger's is markup: what is not made by `element` is escaped there.

Characters that turn the direction of writing, and controls, are made visible too, as in a terminal.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from megaphi.foreign.visible_text import visible

WITHOUT_END = frozenset(("meta", "br"))


class Markup(str):
    """Text that is markup already; only this file makes it of others' text."""

    __slots__ = ()


def escaped(text: object) -> Markup:
    """A value as text of a page."""
    return text if isinstance(text, Markup) else Markup(html.escape(visible(str(text))))


def joined(parts: Iterable[object]) -> Markup:
    """Parts one behind the other, escaped where they are not markup."""
    return Markup("".join(escaped(part) for part in parts))


def element(name: str, /, *content: object, **attributes: object) -> Markup:
    """An element; `_` in names of attributes stands for -, one at the end for nothing (class_), None is left out."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(visible(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in WITHOUT_END:
        return Markup(f"<{name}{said}>")
    return Markup(f"<{name}{said}>{joined(content)}</{name}>")


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> Markup:
    """A table; its first column is text, the others are aligned as numbers by the style sheet."""
    top = element("tr", *(element("th", cell) for cell in head))
    body = (element("tr", *(element("td", cell) for cell in row)) for row in rows)
    return element("div", element("table", element("thead", top), element("tbody", *body)), class_="scroll")
