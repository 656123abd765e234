"""Blocks as one Markdown text.

List markers and quotation marks go in front of lines; code and tables begin at the left edge wherever they stand, so
that a listing is the same characters in the text as on the page.
"""

from __future__ import annotations

from collections.abc import Iterable

from megaphi.curation.extract.html.blocks import Container, PageBlock


def markdown_of(blocks: Iterable[PageBlock]) -> str:
    """The text of these blocks."""
    lines: list[str] = []
    begun: set[Container] = set()
    previous: PageBlock | None = None
    for block in blocks:
        fresh = [container for container in block.containers if container not in begun]
        if previous is not None and not _is_tight(previous, block, begins_item=bool(fresh)):
            lines.append("")
        lines.extend(_lines(block, begun))
        begun.update(fresh)
        previous = block
    return "\n".join(lines)


def _lines(block: PageBlock, begun: set[Container]) -> list[str]:
    first = "".join(container.rest if container in begun else container.first for container in block.containers)
    rest = "".join(container.rest for container in block.containers)
    lines = block.text.split("\n")
    if block.kind in ("code", "table") or (block.kind == "formula" and len(lines) > 1):
        is_item = any(container not in begun for container in block.containers)
        return [first.rstrip(), *lines] if is_item and first.strip() else lines
    if block.kind == "heading":
        lines = [f"{'#' * block.level} {block.text}"]
    return [first + lines[0], *((rest + line).rstrip() for line in lines[1:])]


def _is_tight(previous: PageBlock, block: PageBlock, *, begins_item: bool) -> bool:
    """True where no empty line stands between two blocks: items of one line, a term and its first paragraph."""
    if previous.kind not in ("paragraph", "formula") or block.kind not in ("paragraph", "formula"):
        return False
    if not previous.containers or not block.containers:
        return False
    if begins_item:
        return True
    return previous.is_term and previous.containers == block.containers
