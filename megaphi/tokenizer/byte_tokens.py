"""Byte tokens (`<0xE6>`) of vocabularies that spell so what they have no other token for, as SentencePiece's do.

The decoder `ByteFallback` of `tokenizers` makes U+FFFD of every byte of a run if a single one is broken, also of the
whole characters before it, which a stream of the same tokens has given out already. Here a run keeps its characters and
each broken sequence becomes one U+FFFD, as Python's and every byte-level tokenizer's decoding does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

from megaphi.tokenizer.interface import UNDECIDED

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def with_broken_bytes_replaced(spelled: Iterable[str]) -> list[str]:
    """The same tokens, for `ByteFallback` to decode, with U+FFFD for byte tokens that are not UTF-8."""
    found: list[str] = []
    for are_bytes, run in groupby(spelled, key=lambda text: BYTE_TOKEN.fullmatch(text) is not None):
        tokens = list(run)
        found += _repaired(bytes(int(token[3:5], 16) for token in tokens)) if are_bytes else tokens
    return found


def _repaired(content: bytes) -> list[str]:
    tokens: list[str] = []
    while content:
        start, end = _first_broken(content)
        tokens += [f"<0x{byte:02X}>" for byte in content[:start]]
        if start < end:
            tokens.append(UNDECIDED)
        content = content[end:]
    return tokens


def _first_broken(content: bytes) -> tuple[int, int]:
    """Start and end of the first bytes that are not UTF-8; the end of `content` twice if there are none."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return error.start, error.end
    return len(content), len(content)
