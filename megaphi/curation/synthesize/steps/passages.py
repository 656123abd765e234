"""Passages of a text, cut between paragraphs.

A passage takes whole paragraphs for as long as they fit into the window. A paragraph that is longer than a window is
cut behind a sentence or else a line, and only where there is none of either within it, at the window itself. Put
together, the passages are the text.
"""

from __future__ import annotations

import re

BREAK = re.compile(r"\n[ \t]*\n\s*")
INSIDE = re.compile(r"(?<=[.!?])\s+|\n")


def passages(text: str, *, window: int) -> list[tuple[int, int]]:
    """(first character, end) of each passage, none longer than `window` characters."""
    ends = [match.end() for match in BREAK.finditer(text)]
    found: list[tuple[int, int]] = []
    start, reached = 0, 0
    for end in [*(end for end in ends if end < len(text)), len(text)]:
        if end - start > window and reached > start:
            found.append((start, reached))
            start = reached
        while end - start > window:
            cut = _cut(text, start, window)
            found.append((start, cut))
            start = cut
        reached = end
    if reached > start:
        found.append((start, reached))
    return found


def _cut(text: str, start: int, window: int) -> int:
    """The place where a paragraph that is too long is cut: behind the last sentence or line that fits."""
    inside = [match.end() for match in INSIDE.finditer(text, start, start + window)]
    return inside[-1] if inside and inside[-1] > start else start + window
