"""Conversion of a TeX text by pandoc, as a whole or, where it fails, in parts.

One construct that pandoc does not parse costs the whole document. So a text that fails is halved at an empty line
outside all environments and groups, until the part that fails is one paragraph; that one goes through pylatexenc, which
parses anything. Both halves cost a start of pandoc, 20 ms; their number and their time are limited.
"""

from __future__ import annotations

import re
import resource
from contextlib import suppress
from dataclasses import dataclass, field

from megaphi.curation.extract.marks import Marks
from megaphi.curation.extract.pandoc.run import PandocFailed, to_markdown
from megaphi.curation.extract.tex.lexing import optional

READER = "latex+raw_tex"
MOST_STARTS = 100
MOST_SECONDS = 10.0
"""CPU time of pandoc for one document in parts; what is left then goes through pylatexenc."""
LEAST_WORDS = 0.5
"""Share of the words outside commands that a text has to have: pandoc may stop in the middle without an error."""
COUNTED_WORDS = 60
"""Shorter texts may be all settings and pictures."""
LONGEST_PLAIN = 1 << 20
"""Characters that pylatexenc gets at a time."""
_STRUCTURE = re.compile(
    r"\\\\|\\(?P<kind>begin|end)\s*\{(?P<name>[^{}\n]*)\}|\\.|(?P<brace>[{}])|\n[ \t]*\n\s*", re.DOTALL
)


_COMMANDS = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}|\\[a-zA-Z@]+\*?|[{}]")
_WORD = re.compile(r"[^\W\d_]{4,}")
_ITEM = re.compile(
    r"\\(?:(?P<kind>begin|end)\s*\{(?P<name>[^{}\n]*)\}|item(?![a-zA-Z])(?P<label>\s*(?=\[))|.)", re.DOTALL
)


def with_labels(text: str) -> str:
    """The text with the labels of items (`\\item[$(1)$]`) as words of theirs: pandoc drops them in lists that count."""
    parts: list[str] = []
    place = 0
    lists: list[str] = []
    while found := _ITEM.search(text, place):
        parts.append(text[place : found.end()])
        place = found.end()
        if found["kind"] == "begin" and ("description" in found["name"] or found["name"] in ("itemize", "enumerate")):
            lists.append(found["name"])
        elif found["kind"] == "end" and lists and lists[-1] == found["name"]:
            lists.pop()
        elif found["label"] is not None and lists and "description" not in lists[-1]:
            label = optional(text, place)
            if label:
                parts.append(f" {{{label[0]}}} ")
                place = label[1]
    parts.append(text[place:])
    return "".join(parts)


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@dataclass(slots=True)
class Converter:
    """Counts of what a document took."""

    marks: Marks
    starts: int = 0
    began: float = field(default_factory=_seconds_of_children)
    plain_parts: int = 0
    reason: str = ""
    """First message of pandoc."""

    def convert(self, text: str) -> str:
        """The text as Markdown."""
        try:
            return self._pandoc(text)
        except PandocFailed as error:
            self.reason = str(error)
            return self._in_parts(paragraphs(text))

    def _pandoc(self, text: str) -> str:
        self.starts += 1
        found = to_markdown(text.encode("utf-8", "replace"), READER)
        words = len(_WORD.findall(_COMMANDS.sub(" ", text)))
        if words >= COUNTED_WORDS and len(_WORD.findall(found)) < LEAST_WORDS * words:
            raise PandocFailed("it dropped most words")
        return found

    def _in_parts(self, parts: list[str]) -> str:
        is_spent = self.starts + 2 > MOST_STARTS or _seconds_of_children() - self.began > MOST_SECONDS
        if len(parts) <= 1 or is_spent:
            self.plain_parts += 1
            return plain_words("\n\n".join(parts), self.marks)
        middle = len(parts) // 2
        return "\n\n".join(self._half(half) for half in (parts[:middle], parts[middle:]))

    def _half(self, parts: list[str]) -> str:
        try:
            return self._pandoc("\n\n".join(parts))
        except PandocFailed:
            return self._in_parts(parts)


def paragraphs(text: str) -> list[str]:
    """The text cut at empty lines outside environments and groups; where those never close, at every empty line."""
    for depth_counts in (True, False):
        cut: list[str] = []
        depth = start = 0
        for found in _STRUCTURE.finditer(text):
            if found["brace"] or found["kind"]:
                depth += 1 if found["brace"] == "{" or found["kind"] == "begin" else -1
                depth = max(depth, 0)
            elif found[0][0] == "\n" and (depth == 0 or not depth_counts):
                cut.append(text[start : found.start()])
                start = found.end()
        cut.append(text[start:])
        if len(cut) > 1 and max(map(len, cut)) < len(text) // 2:
            break
    return [part for part in cut if part.strip()]


def plain_words(text: str, marks: Marks) -> str:
    """The words of a text that pandoc does not parse, formulas and code still as marks, all of them."""
    from pylatexenc.latex2text import LatexNodes2Text

    converter = LatexNodes2Text(math_mode="verbatim", keep_comments=False, strict_latex_spaces=False)
    shown = []
    for start in range(0, len(text), LONGEST_PLAIN):
        part = text[start : start + LONGEST_PLAIN]
        words = ""
        with suppress(Exception):  # it raises many kinds where arguments are missing
            words = converter.latex_to_text(part, tolerant_parsing=True)
        lost = [mark for mark in marks.pattern.findall(part) if f"{marks.letters}{mark}q" not in words]
        shown.append(words if words.strip() and not lost else _COMMANDS.sub(" ", part))
    return "\n".join(line.rstrip() for line in "".join(shown).splitlines()).strip()
