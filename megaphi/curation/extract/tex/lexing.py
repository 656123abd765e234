"""Groups and arguments of TeX, found in text; nothing is executed.

All positions are indices into the text. Backslash escapes are skipped, so `\\{` opens no group. Comments are assumed to
be gone (`code.py`).
"""

from __future__ import annotations

import re

CONTROL = re.compile(r"\\([a-zA-Z@]+)\*?|\\(.)", re.DOTALL)
"""A control word, with its star, or a control symbol."""
_GROUPING = re.compile(r"\\.|[{}]", re.DOTALL)
_BRACKETS = re.compile(r"\\.|[{}\]]", re.DOTALL)
_SPACE = re.compile(r"[ \t]*\n?[ \t]*")
LONGEST_ARGUMENT = 200_000


def group_end(text: str, start: int) -> int | None:
    """Index behind the brace that closes the one at `start`; None if it is never closed."""
    depth = 0
    for found in _GROUPING.finditer(text, start, start + LONGEST_ARGUMENT):
        if found[0] == "{":
            depth += 1
        elif found[0] == "}":
            depth -= 1
            if depth == 0:
                return found.end()
    return None


def skip_space(text: str, start: int) -> int:
    """Index of what follows blanks and at most one line break."""
    found = _SPACE.match(text, start)
    return found.end() if found else start


def argument(text: str, start: int) -> tuple[str, int] | None:
    """(undelimited argument without its braces, index behind it): a group, a control sequence or a character."""
    start = skip_space(text, start)
    if start >= len(text) or text[start] in "}\n":
        return None
    if text[start] == "{":
        end = group_end(text, start)
        return None if end is None else (text[start + 1 : end - 1], end)
    control = CONTROL.match(text, start)
    if control:
        return control[0], control.end()
    return text[start], start + 1


def optional(text: str, start: int) -> tuple[str, int] | None:
    """(argument in brackets, index behind it); None if there is none."""
    start = skip_space(text, start)
    if not text.startswith("[", start):
        return None
    depth = 0
    for found in _BRACKETS.finditer(text, start + 1, start + LONGEST_ARGUMENT):
        if found[0] == "]" and depth == 0:
            return text[start + 1 : found.start()], found.end()
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth < 0:
            return None
    return None


def delimited(text: str, start: int, delimiter: str) -> tuple[str, int] | None:
    """(text up to a delimiter outside braces, index behind it)."""
    place = start
    while (found := text.find(delimiter, place, place + LONGEST_ARGUMENT)) >= 0:
        depth = 0
        for brace in _GROUPING.finditer(text, start, found):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start:found], found + len(delimiter)
        place = found + 1
    return None
