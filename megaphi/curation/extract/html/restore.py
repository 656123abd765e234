"""Blocks that a library dropped wrongly, taken back.

trafilatura drops tables, listings and definitions in the middle of a text; resiliparse drops short paragraphs. A block
that was dropped comes back if it stands where the content is, within the smallest element that holds nearly all of what
was kept, and does not look like navigation: one line of links between other blocks is text, three lines of links are a
menu, unless an item of a list with words of its own announces them. The heading right before the first block comes
back too. The page's own table of contents goes.
"""

from __future__ import annotations

from typing import Any

from megaphi.curation.extract.html.blocks import PageBlock

NEARLY_ALL = 0.9
"""Share of the kept characters that the element of the content holds."""
MENU = 3
"""Blocks of links in a row."""
_PARTS = frozenset({"li", "dd", "dt", "td", "th", "tr", "tbody", "ul", "ol", "dl", "table", "p"})
"""Elements that are no content by themselves: a text is not in one item of a list."""
NEAR = 3
"""Blocks between a title and the text."""


def restored(root: Any, blocks: list[PageBlock], kept: set[int]) -> set[int]:
    """The kept blocks and those that come back."""
    inside = _inside(blocks, _content_element(root, blocks, kept))
    result = set(kept)
    for number in inside:
        block = blocks[number]
        if block.kind in ("code", "formula", "heading") or block.formulas or not block.is_links:
            result.add(number)
    result |= _single_lines(blocks, inside, result)
    result -= _contents(blocks, sorted(result))
    first = min(result, default=0)
    titles = [number for number in range(max(0, first - NEAR), first) if blocks[number].kind == "heading"]
    return result | set(titles[-1:])


def _contents(blocks: list[PageBlock], chosen: list[int]) -> set[int]:
    """The page's own table of contents: blocks of links in a row that repeat its headings."""
    headings = {block.text for block in blocks if block.kind == "heading"}
    found: set[int] = set()
    run: list[int] = []
    for number in [*chosen, None]:
        if number is not None and blocks[number].is_links:
            run.append(number)
            continue
        lines = [line for own in run for line in blocks[own].text.split("\n")]
        if len(lines) >= MENU and sum(line in headings for line in lines) > len(lines) / 2:
            found.update(run)
        run = []
    return found


def _content_element(root: Any, blocks: list[PageBlock], kept: set[int]) -> Any:
    """The deepest element that holds nearly all of what was kept."""
    weights: dict[Any, int] = {}
    total = 0
    for number in kept:
        length = len(blocks[number].text)
        total += length
        element = blocks[number].element
        while element is not None:
            weights[element] = weights.get(element, 0) + length
            element = element.getparent()
    element = root
    while True:
        heavy = next((child for child in element if weights.get(child, 0) >= NEARLY_ALL * total), None)
        if heavy is None:
            break
        element = heavy
    while element.tag in _PARTS and element.getparent() is not None:
        element = element.getparent()
    return element


def _inside(blocks: list[PageBlock], content: Any) -> list[int]:
    """Numbers of the blocks within an element."""
    inside = set(content.iter())
    return [number for number, block in enumerate(blocks) if block.element in inside]


def _is_under(before: PageBlock, block: PageBlock) -> bool:
    """True where a block belongs to the item of a list that the one before it begins: links behind a word."""
    own = before.containers
    return 0 < len(own) < len(block.containers) and block.containers[: len(own)] == own and not before.is_links


def _single_lines(blocks: list[PageBlock], inside: list[int], result: set[int]) -> set[int]:
    """Blocks of links that stand between blocks of text, fewer than MENU of them together."""
    lines: set[int] = set()
    run: list[int] = []
    for number in [*inside, None]:
        if number is not None and number not in result:
            run.append(number)
            continue
        if run and run[0] - 1 in result and (len(run) < MENU or _is_under(blocks[run[0] - 1], blocks[run[0]])):
            lines.update(run)
        run = []
    return lines
