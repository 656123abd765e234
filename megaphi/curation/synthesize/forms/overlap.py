"""Measures of how much of one text stands in another: n-grams of words, spans found again, similarity of programs."""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher

WORD = re.compile(r"\w+|[^\w\s]")
LONGEST_PROGRAM = 4_000
"""Tokens of each program that are compared: the comparison costs their product."""


def word_grams(text: str, words: int) -> list[tuple[str, ...]]:
    found = re.findall(r"\w+", text.casefold())
    return [tuple(found[place : place + words]) for place in range(len(found) - words + 1)]


def shared_share(text: str, other: str, *, words: int) -> float:
    """Share of the n-grams of `text` that `other` has too; 0 for a text that is shorter than one."""
    grams = word_grams(text, words)
    known = set(word_grams(other, words))
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0


def repeated_share(text: str, *, words: int) -> float:
    """Share of n-grams that are repetitions of one that came before."""
    grams = Counter(word_grams(text, words))
    total = sum(grams.values())
    return (total - len(grams)) / total if total else 0.0


def flat(text: str) -> str:
    """The text without differences of case, space, quotation marks and dashes."""
    for marks, plain in (("‘’‛`´", "'"), ("“”„«»", '"'), ("–—−", "-")):
        for mark in marks:
            text = text.replace(mark, plain)
    return " ".join(text.casefold().split())


def similarity(program: str, other: str) -> float:
    """Share of tokens that two programs have in the same order, from 0 to 1."""
    one, two = (WORD.findall(text)[:LONGEST_PROGRAM] for text in (program, other))
    return SequenceMatcher(None, one, two, autojunk=False).ratio()
