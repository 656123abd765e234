"""Windows of a page's blocks, and the question about one: blocks are numbered lines, labels are `keep` or `drop`.

A block is shown by its kind, its length and its beginning, with all white space made one space, so that no text of a
page can pass for the line of another block. The schema of an answer names every number: a sampler that keeps to schemas
can give nothing else than one label for each block, and from others nothing else is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from megaphi.conversation import Conversation
from megaphi.curation.extract.html.blocks import PageBlock
from megaphi.curation.requests.template import Template, read_template
from megaphi.errors import InputError
from megaphi.judging.asking import JsonQuestion, fields_of

KEEP, DROP = "keep", "drop"
TOKENS_OF_A_LABEL = 12
"""More than `"123": "keep", ` has in any tokenizer that is used."""
LONGEST_TITLE = 200


@cache
def our_prompt() -> Template:
    return read_template(Path(__file__).with_name("keep_blocks.txt"))


def windows_of(blocks: int, *, most: int) -> list[range]:
    """Numbers of blocks in windows of nearly the same size, none above `most`."""
    count = -(-blocks // most)
    return [range(blocks * place // count, blocks * (place + 1) // count) for place in range(count)]


def question_about(
    blocks: Sequence[PageBlock], *, title: str, shown_characters: int, seed: int
) -> JsonQuestion[list[bool]]:
    """The question which blocks of a window are kept; the same window has the same question on every page."""
    return JsonQuestion(
        prompt_about(blocks, title=title, shown_characters=shown_characters, seed=seed).messages,
        partial(read_labels_of_blocks, count=len(blocks)),
    )


def prompt_about(blocks: Sequence[PageBlock], *, title: str, shown_characters: int, seed: int) -> Conversation:
    lines = [f"{number}. {_shown(block, shown_characters)}" for number, block in enumerate(blocks, start=1)]
    data = {"title": " ".join(title.split())[:LONGEST_TITLE], "blocks": "\n".join(lines)}
    return our_prompt().filled(plain={"count": str(len(blocks))}, data=data, seed=seed, item="")


def _shown(block: PageBlock, characters: int) -> str:
    text = " ".join(block.text.split())
    kind = "links" if block.is_links else f"heading {block.level}" if block.kind == "heading" else block.kind
    if len(text) <= characters:
        return f"{kind}: {text}"
    return f"{kind}, {len(text)} characters: {text[:characters].rstrip()} …"


def labels_schema(count: int) -> dict[str, Any]:
    """The schema of the answer about so many blocks."""
    names = [str(number) for number in range(1, count + 1)]
    properties = {name: {"enum": [KEEP, DROP]} for name in names}
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def answer_tokens(count: int) -> int:
    """Tokens that an answer about so many blocks may have."""
    return TOKENS_OF_A_LABEL * (count + 1)


def read_labels_of_blocks(value: Any, *, count: int) -> list[bool]:
    """True for each block that is kept. Raises InputError that says what is wrong, and quotes nothing of it."""
    labels = fields_of(value, [str(number) for number in range(1, count + 1)])
    wrong = [name for name, label in labels.items() if label not in (KEEP, DROP)]
    if wrong:
        raise InputError(f"block {wrong[0]} must be {KEEP!r} or {DROP!r}")
    return [labels[str(number)] == KEEP for number in range(1, count + 1)]
