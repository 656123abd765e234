"""The choice of the blocks that are a page's content: asked of trafilatura or resiliparse.

Both give text, not places. So the first characters of every block are a mark: a few Braille letters between brackets,
which no filter of theirs knows. The blocks whose marks come back are content; their text is taken from the tree, where
nothing was lost. Code, formulas and tables of data become plain paragraphs for this question, because both libraries
judge them by rules of their own, and wrongly.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from lxml.html import tostring

from megaphi.curation.extract.html.blocks import PageBlock
from megaphi.curation.extract.html.tree import text_of

Engine = Literal["trafilatura", "resiliparse"]
_BRAILLE = 0x2801
_DIGITS = 250
_MARK = re.compile(r"⟦([⠁-⣺]{3})⟧")


def mark_blocks(blocks: list[PageBlock]) -> None:
    """Put the mark of each block in front of its text, in the tree. Only the question is left of the tree then."""
    for number, block in enumerate(blocks):
        element = block.element
        if block.kind in ("code", "table", "formula"):
            _become_paragraph(element, _mark(number) + " ".join(text_of(element).split()))
        else:
            setattr(element, block.slot, _mark(number) + (getattr(element, block.slot) or "").lstrip())


def kept_by(root: Any, blocks: list[PageBlock], engine: Engine) -> set[int]:
    """Numbers of the blocks that the library takes for content. `mark_blocks` comes first."""
    try:
        text = _trafilatura(root) if engine == "trafilatura" else _resiliparse(root)
    except MemoryError:
        raise
    except Exception:  # damaged pages find errors in libraries; the other one is asked then
        return set()
    numbers = (_number(match[1]) for match in _MARK.finditer(text))
    return {number for number in numbers if number < len(blocks)}


def _trafilatura(root: Any) -> str:
    from trafilatura import extract

    return extract(root, output_format="txt", include_comments=False, include_tables=True) or ""


def _resiliparse(root: Any) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    html = str(tostring(root, encoding="unicode"))
    return extract_plain_text(html, main_content=True, alt_texts=False, comments=False)


def _become_paragraph(element: Any, text: str) -> None:
    tail = element.tail
    element.clear()
    element.tag, element.text, element.tail = "p", text, tail


def _mark(number: int) -> str:
    digits = (number // _DIGITS // _DIGITS % _DIGITS, number // _DIGITS % _DIGITS, number % _DIGITS)
    return "⟦" + "".join(chr(_BRAILLE + digit) for digit in digits) + "⟧"


def _number(digits: str) -> int:
    first, second, third = (ord(digit) - _BRAILLE for digit in digits)
    return (first * _DIGITS + second) * _DIGITS + third
