"""The rule of contamination once more, letter by letter and pair by pair, without hashes and without NumPy."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence

from megaphi.decontamination.rule import ContaminationRule

SCRIPTS = (
    "CJK UNIFIED",
    "CJK COMPATIBILITY IDEO",
    "HIRAGANA",
    "HENTAIGANA",
    "KATAKANA",
    "THAI",
    "LAO ",
    "MYANMAR",
    "KHMER",
)
"""Beginnings of the names of letters that are words by themselves."""
Gram = tuple[str, ...]


def stands_alone(character: str) -> bool:
    return unicodedata.category(character)[0] in "LN" and unicodedata.name(character, "").startswith(SCRIPTS)


@functools.cache
def words(text: str) -> list[str]:
    found: list[str] = []
    before = " "
    for character in unicodedata.normalize("NFKC", text).lower():
        kind = unicodedata.category(character)[0]
        if kind == "M" and before != " ":
            found[-1] += character
        elif kind in "LNM":
            if before == " " or stands_alone(character) or stands_alone(before):
                found.append(character)
            else:
                found[-1] += character
        before = character if kind in "LNM" else " "
    return found


@functools.cache
def grams(text: str, size: int) -> list[Gram]:
    found = words(text)
    return [tuple(found[start : start + size]) for start in range(len(found) - size + 1)]


@functools.cache
def different(text: str, size: int) -> frozenset[Gram]:
    return frozenset(grams(text, size))


def share(left: str, right: str, size: int) -> float:
    first, second = different(left, size), different(right, size)
    return len(first & second) / min(len(first), len(second)) if first and second else 0.0


def first_exact(text: str, item: str, rule: ContaminationRule, allowed: Sequence[Gram]) -> str | None:
    """The first long run of `text` that `item` has too."""
    theirs = different(item, rule.exact_words).difference(allowed)
    if theirs.isdisjoint(different(text, rule.exact_words)):
        return None
    return next((" ".join(gram) for gram in grams(text, rule.exact_words) if gram in theirs), None)


def status(text: str, others: Sequence[str], rule: ContaminationRule, allowed: Sequence[Gram], *, is_item: bool) -> str:
    """Status of an item among training texts, or of a training text among items."""
    if not grams(text, rule.overlap_words):
        return "unchecked"
    pairs = [(other, text) if is_item else (text, other) for other in others]
    has_exact = any(first_exact(training, item, rule, allowed) for training, item in pairs)
    largest = max((share(text, other, rule.overlap_words) for other in others), default=0.0)
    if has_exact or largest >= rule.contaminated_share:
        return "contaminated"
    return "partial" if largest > rule.partial_share else "clean"
