"""Formulas of a TeX text, taken out so that conversion can neither change nor lose a character of them unseen.

Inline: `$...$`, `\\(...\\)`, `math`. Displayed: `$$...$$`, `\\[...\\]` and the environments of LaTeX, amsmath and their
relatives; one that only says "displayed" (`equation`) is left off, one that arranges lines (`align`) is kept. A dollar
sign whose formula does not end in its paragraph is a dollar sign.
"""

from __future__ import annotations

import re

from megaphi.curation.extract.marks import Marks

PLAIN = {"equation", "displaymath", "math", "dmath", "equation+"}
ALIGNED = set(
    "align alignat aligned gather multline eqnarray flalign xalignat xxalignat dseries darray dgroup IEEEeqnarray "
    "mathpar numcases subnumcases tikzcd CD".split()
)
_BEGINNING = re.compile(
    r"\\begin\s*\{(?P<environment>"
    + "|".join(sorted((re.escape(name) for name in PLAIN | ALIGNED), key=len, reverse=True))
    + r")(?P<star>\*?)\}|\\(?P<bracket>[(\[])|(?P<dollars>\$\$?)|\\.",
    re.DOTALL,
)
_INSIDE = re.compile(r"\\.|[{}$]|\n[ \t]*\n", re.DOTALL)
_LABELLED_ONLY = re.compile(r"\s*\\nonumber\s*$")
LONGEST = 100_000


def without_formulas(text: str, marks: Marks) -> str:
    """The text with a formula of one word, a mark, in the place of every formula."""
    parts: list[str] = []
    place = 0
    while found := _BEGINNING.search(text, place):
        parts.append(text[place : found.start()])
        taken = _formula(text, found)
        if taken is None:
            literal = "\\$" if found["dollars"] else found[0]
            parts.append(literal)
            place = found.start() + 1 if found["dollars"] else found.end()
            continue
        kind, tex, place = taken
        if tex:
            mark = marks.add(kind, tex)
            parts.append(f"\\({mark}\\)" if kind == "inline" else f"\\[{mark}\\]")
    parts.append(text[place:])
    return "".join(parts)


def _formula(text: str, found: re.Match[str]) -> tuple[str, str, int] | None:
    """(kind, its TeX, index behind it)."""
    if found["environment"]:
        return _environment(text, found)
    if found["bracket"]:
        closing, kind = ("\\)", "inline") if found["bracket"] == "(" else ("\\]", "display")
        end = text.find(closing, found.end(), found.end() + LONGEST)
        return None if end < 0 else (kind, _tidy(text[found.end() : end]), end + 2)
    if not found["dollars"]:
        return None
    displayed = found["dollars"] == "$$"
    end = _closing_dollar(text, found.end(), displayed=displayed)
    if end is None:
        return None
    behind = end + len(found["dollars"])
    return ("display" if displayed else "inline"), _tidy(text[found.end() : end]), behind


def _closing_dollar(text: str, start: int, *, displayed: bool) -> int | None:
    """Index of the dollar sign that ends the formula: outside braces, in the same paragraph."""
    depth = 0
    for found in _INSIDE.finditer(text, start, start + LONGEST):
        sign = found[0]
        if sign == "{":
            depth += 1
        elif sign == "}":
            depth -= 1
            if depth < 0:
                return None
        elif sign == "$" and depth == 0:
            return found.start() if not displayed or text.startswith("$$", found.start()) else None
        elif sign[0] == "\n" and not displayed:
            return None
    return None


def _environment(text: str, found: re.Match[str]) -> tuple[str, str, int] | None:
    name = found["environment"] + found["star"]
    opening, closing = f"\\begin{{{name}}}", f"\\end{{{name}}}"
    end = text.find(closing, found.end(), found.end() + LONGEST)
    if end < 0:
        return None
    behind = end + len(closing)
    inside = text[found.end() : end]
    kind = "inline" if name == "math" else "display"
    if found["environment"] in PLAIN:
        return kind, _tidy(inside), behind
    return kind, f"{opening}{_without_empty_lines(inside).rstrip()}\n{closing}", behind


def _tidy(tex: str) -> str:
    return _LABELLED_ONLY.sub("", _without_empty_lines(tex)).strip()


def _without_empty_lines(tex: str) -> str:
    return re.sub(r"\n(?:[ \t]*\n)+", "\n", tex)
