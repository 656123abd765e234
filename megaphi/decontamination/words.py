"""Words and their normal form; the loop over them is compiled (csrc/text), Unicode's tables come from here.

A word is a run of letters, marks and digits, in NFKC form and lower case; everything else separates words, so `3.14` is
two words, and so is `don't`. Scripts that put no blanks between words (Han, kana, Thai, Lao, Burmese, Khmer) show no
words: each of their letters and digits counts as one.

Most characters have a normal form that does not depend on their neighbours; it is asked for once per 256 code points,
when a text first has one of them. A text with any other, an accent of its own or a capital sigma, is normalised whole.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

from megaphi.compiled.module import compiled

SEPARATES, JOINS, STANDS_ALONE, MARKS = range(4)
"""Kinds of characters: no word; a part of a word; a word; what belongs to the character before it."""
WITHOUT_BLANKS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),  # Burmese
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),  # Han
    (0x1AFF0, 0x1B16F),  # kana
    (0x20000, 0x323AF),  # Han
)
"""First and last code points of the scripts whose letters and digits each count as a word."""
PAGE = 256
"""Code points that are described at once."""
Form = tuple[str, bytes] | None
"""A character's normal form and the kinds of its characters; None: it depends on the neighbours."""


@cache
def characters() -> Any:
    """The compiled reader of words of this process: `megaphi._C.Characters`."""
    return compiled().Characters(described, normalized)


def words_of(text: str) -> list[str]:
    """The words of a text in the form in which they are compared, in order."""
    return characters().spelled(text).split()


def normalized(text: str) -> str:
    """The text in the form in which words are compared."""
    return unicodedata.normalize("NFKC", text).lower()


def kind_of(character: str) -> int:
    """Kind of a character of a normal form."""
    major = unicodedata.category(character)[0]
    if major == "M":
        return MARKS
    if major not in "LN":
        return SEPARATES
    code = ord(character)
    return STANDS_ALONE if any(first <= code <= last for first, last in WITHOUT_BLANKS) else JOINS


def described(page: int) -> tuple[bytes, dict[int, Form]]:
    """(kind of each of 256 code points, the forms of those that are not their own form)."""
    code_points = range(PAGE * page, PAGE * (page + 1))
    kinds = bytes(kind_of(chr(code)) for code in code_points)
    forms = {code: form_of(chr(code)) for code in code_points}
    return kinds, {code: form for code, form in forms.items() if form is None or form[0] != chr(code)}


def form_of(character: str) -> Form:
    """Normal form of a character, unless it depends on the neighbours.

    It does where a mark may change places with others, where a character may join the one before it, and for a capital
    sigma, which has another small letter at the end of a word.
    """
    normal = unicodedata.normalize("NFKC", character)
    if "Σ" in normal or any(unicodedata.combining(one) or one in _joining() for one in normal):
        return None
    lower = normal.lower()
    return lower, bytes(map(kind_of, lower))


@cache
def _joining() -> frozenset[str]:
    """Characters that can become one with the character before them; all stand in the first two planes."""
    pairs = (unicodedata.decomposition(chr(code)).split() for code in range(0x20000))
    of_letters = {chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2 and not pair[0].startswith("<")}
    return frozenset(of_letters | set(map(chr, range(0x1160, 0x1200))))
