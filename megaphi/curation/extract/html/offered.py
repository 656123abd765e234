"""The blocks of a page, offered to somebody else's decision: as JSON, since they come out of the process that parses.

The rules decide as well, so that their text is there where no other decision comes. A thread of a forum offers nothing:
its posts are known. Blocks that come back are without their elements; what makes them a text is in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megaphi.curation.extract.found import Extracted
from megaphi.curation.extract.html.blocks import Container, PageBlock
from megaphi.curation.extract.html.decide import Engine
from megaphi.curation.extract.html.page import by_rules, read_blocks

OFFERED = "offered_blocks"
"""Metadata key of what `offer_blocks` gives beside the text."""
_FIELDS = ("kind", "text", "level", "link_characters", "formulas", "is_term")


def offer_blocks(
    content: bytes, *, media_type: str, files: Mapping[str, bytes], engine: Engine = "trafilatura", deepest: int = 256
) -> Extracted:
    """The text by the rules, and the blocks of the page. Raises NotExtracted as `extract_html` does."""
    del files
    page = read_blocks(content, media_type=media_type, deepest=deepest)
    by_the_rules = by_rules(page, engine)
    if page.thread:
        return by_the_rules
    return Extracted(by_the_rules.text, {**by_the_rules.metadata, OFFERED: plain_blocks(page.blocks)})


def plain_blocks(blocks: list[PageBlock]) -> dict[str, Any]:
    """The blocks as JSON; a container that several blocks are in stands there once."""
    numbers: dict[Container, int] = {}
    for block in blocks:
        for container in block.containers:
            numbers.setdefault(container, len(numbers))
    return {
        "containers": [[container.first, container.rest] for container in numbers],
        "blocks": [
            {name: getattr(block, name) for name in _FIELDS} | {"in": [numbers[one] for one in block.containers]}
            for block in blocks
        ],
    }


def blocks_from_plain(plain: Mapping[str, Any]) -> list[PageBlock]:
    """The blocks that `plain_blocks` was given, without elements."""
    containers = [Container(first, rest) for first, rest in plain["containers"]]
    return [
        PageBlock(
            element=None,
            slot="text",
            containers=tuple(containers[number] for number in block["in"]),
            **{name: block[name] for name in _FIELDS},
        )
        for block in plain["blocks"]
    ]
