"""The text of an HTML page, as Markdown.

In this order: decode and parse; take the formulas out; remove furniture; cut the page into blocks; ask a library which
of them are content; take back what it dropped between them; write the blocks that stay. The library decides, the tree
gives the text: so a formula, a listing or a table is kept whole or dropped with its block, never damaged. The counts of
what was on the page and what is in the text are in the metadata.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from megaphi.curation.extract.decode import decoded
from megaphi.curation.extract.found import Extracted, NotExtracted
from megaphi.curation.extract.html.blocks import Block, blocks_of
from megaphi.curation.extract.html.decide import Engine, kept_by, mark_blocks
from megaphi.curation.extract.html.formulas import take_formulas
from megaphi.curation.extract.html.markdown import markdown_of
from megaphi.curation.extract.html.restore import restored
from megaphi.curation.extract.html.tree import parsed, title_of, without_furniture

OTHER: dict[Engine, Engine] = {"trafilatura": "resiliparse", "resiliparse": "trafilatura"}

FOUND = 0.5
"""Share of the page's text, links not counted, below which the other library is asked too."""


def extract_html(
    content: bytes, *, media_type: str, files: Mapping[str, bytes], engine: Engine = "trafilatura", deepest: int = 256
) -> Extracted:
    """The main text of a page as Markdown.

    Args:
        engine: the library that decides what is content.
        deepest: nesting of elements.

    Raises:
        NotExtracted: `too_deep`, `too_large`, `empty`.
    """
    del files
    html, encoding = decoded(content, media_type=media_type)
    root = parsed(html, deepest=deepest)
    title = title_of(root)
    take_formulas(root)
    without_furniture(root)
    blocks = blocks_of(root)
    if not blocks:
        raise NotExtracted("empty")
    kept, decided = _decision(root, blocks, engine)
    text = markdown_of(blocks[number] for number in sorted(kept))
    extraction = {"decided": decided, **_counts(blocks, kept)}
    return Extracted(text, {"title": title, "encoding": encoding, "extraction": extraction})


def _decision(root: Any, blocks: list[Block], engine: Engine) -> tuple[set[int], str]:
    """Numbers of the blocks that stay, and the library that chose them; `everything` where both found nothing."""
    mark_blocks(blocks)
    kept = _kept(root, blocks, engine)
    prose = _length(block for block in blocks if not block.is_links)
    if _length(blocks[number] for number in kept) >= FOUND * prose:
        return kept, engine
    other = _kept(root, blocks, OTHER[engine])
    if _length(blocks[number] for number in other) > 2 * _length(blocks[number] for number in kept):
        return other, OTHER[engine]
    return (kept, engine) if kept else (set(range(len(blocks))), "everything")


def _kept(root: Any, blocks: list[Block], engine: Engine) -> set[int]:
    kept = kept_by(root, blocks, engine)
    return restored(root, blocks, kept) if kept else kept


def _length(blocks: Iterable[Block]) -> int:
    return sum(len(block.text) for block in blocks)


def _counts(blocks: list[Block], kept: set[int]) -> dict[str, list[int]]:
    """Of formulas, listings and tables: how many are on the page outside furniture, and how many in the text."""
    on_page: Counter[str] = Counter()
    in_text: Counter[str] = Counter()
    for number, block in enumerate(blocks):
        own = {"formulas": block.formulas, "code": block.kind == "code", "tables": block.kind == "table"}
        on_page.update(own)
        if number in kept:
            in_text.update(own)
    return {name: [in_text[name], on_page[name]] for name in ("formulas", "code", "tables")}
