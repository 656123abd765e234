"""The text of an HTML page, as Markdown.

In this order: decode and parse; take the formulas out; look whether it is a thread of a forum; remove furniture; cut
the page into blocks; ask a library which of them are content; take back what it dropped between them; write the blocks
that stay. The library decides, the tree gives the text: so a formula, a listing or a table is kept whole or dropped
with its block, never damaged. The counts of what was on the page and what is in the text are in the metadata.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from megaphi.curation.extract.decode import decoded
from megaphi.curation.extract.found import Extracted, NotExtracted
from megaphi.curation.extract.html.blocks import PageBlock, blocks_of
from megaphi.curation.extract.html.decide import Engine, kept_by, mark_blocks
from megaphi.curation.extract.html.formulas import take_formulas
from megaphi.curation.extract.html.markdown import markdown_of
from megaphi.curation.extract.html.restore import restored
from megaphi.curation.extract.html.threads import posts_of, thread_of
from megaphi.curation.extract.html.tree import parsed, title_of, without_furniture

OTHER: dict[Engine, Engine] = {"trafilatura": "resiliparse", "resiliparse": "trafilatura"}

FOUND = 0.5
"""Share of the page's text, links not counted, below which the other library is asked too."""


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """A page that has been cut into blocks."""

    root: Any
    """The tree that the blocks come from."""
    blocks: list[PageBlock]
    found: Mapping[str, str]
    """Title and encoding."""
    forum: str
    """The program that made a thread; empty for other pages."""
    posts: int
    thread: list[PageBlock]
    """The posts of a thread with their headings, which are its text; empty for other pages."""


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
    return by_rules(read_blocks(content, media_type=media_type, deepest=deepest), engine)


def read_blocks(content: bytes, *, media_type: str, deepest: int) -> HtmlPage:
    """The blocks of a page. Raises NotExtracted: `too_deep`, `too_large`, `empty`."""
    html, encoding = decoded(content, media_type=media_type)
    root = parsed(html, deepest=deepest)
    found = {"title": title_of(root), "encoding": encoding}
    take_formulas(root)
    forum, posts = posts_of(root)
    without_furniture(root)
    blocks = blocks_of(root)
    thread = thread_of(blocks, posts)
    if not thread and not blocks:
        raise NotExtracted("empty")
    return HtmlPage(root, blocks, found, forum, len(posts), thread)


def by_rules(page: HtmlPage, engine: Engine) -> Extracted:
    """The text of those blocks that a library takes for content; of a thread, all posts."""
    if page.thread:
        return text_of_blocks(page.blocks, page.thread, page.found, decided=page.forum, posts=page.posts)
    kept, library = _decision(page.root, page.blocks, engine)
    return text_of_blocks(page.blocks, [page.blocks[number] for number in sorted(kept)], page.found, decided=library)


def text_of_blocks(
    blocks: list[PageBlock], chosen: list[PageBlock], found: Mapping[str, Any], /, **extraction: Any
) -> Extracted:
    """The text of the chosen ones; `extraction`: who chose them."""
    return Extracted(markdown_of(chosen), {**found, "extraction": {**extraction, **_counts(blocks, chosen)}})


def _decision(root: Any, blocks: list[PageBlock], engine: Engine) -> tuple[set[int], str]:
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


def _kept(root: Any, blocks: list[PageBlock], engine: Engine) -> set[int]:
    kept = kept_by(root, blocks, engine)
    return restored(root, blocks, kept) if kept else kept


def _length(blocks: Iterable[PageBlock]) -> int:
    return sum(len(block.text) for block in blocks)


def _counts(blocks: list[PageBlock], chosen: list[PageBlock]) -> dict[str, list[int]]:
    """Counts of formulas, listings and tables: how many are on the page outside furniture, and how many in the text."""
    totals: list[dict[str, int]] = []
    for some in (chosen, blocks):
        kinds = Counter(block.kind for block in some)
        formulas = sum(block.formulas for block in some)
        totals.append({"formulas": formulas, "code": kinds["code"], "tables": kinds["table"]})
    return {name: [total[name] for total in totals] for name in totals[0]}
