"""FineWeb's rules (Penedo et al. 2024, arXiv 2406.17557), found by comparing a good crawl with a bad one.

Lines should end as sentences do, few should be short, little should come twice, and a page should not be a list. They
are strict: they reject lists, tables and poems, and the code blocks of a technical page count as short lines too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from megaphi.config import Range
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.filter.gopher import Share
from megaphi.curation.filter.words import repeated, tokens_of
from megaphi.curation.step import OfOne, StepContext

FINAL = tuple(".!?‼⁇⁈⁉‽。．！？｡।॥؟۔։።")
"""Signs that end a sentence in the languages of large corpora."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FineWebQuality:
    """Reject pages that are lists, menus and fragments."""

    VERSION: ClassVar[int] = 1
    minimum_final_lines: Share = 0.12
    """Share of lines that end with the sign of a sentence."""
    short_line: Annotated[int, Range(minimum=0)] = 30
    """Characters up to which a line is short."""
    maximum_short_lines: Share = 0.67
    maximum_repeated_characters: Share = 0.01
    """Share of characters in lines that came before: 0.01 in the code that made FineWeb; the paper prints 0.1."""
    maximum_line_breaks: Annotated[float, Range(minimum=0)] = 0.3
    """Line breaks per token (in their code, not in the paper)."""

    def open(self, context: StepContext) -> OfOne:
        return self.look

    def look(self, document: Document) -> Outcome:
        found = self._fault(document.text)
        return Rejected(document, *found) if found else document

    def _fault(self, text: str) -> tuple[str, str] | None:
        lines = [line for line in text.split("\n") if line and not line.isspace()]
        if not lines:
            return "no_text", ""
        final = sum(line.endswith(FINAL) for line in lines) / len(lines)
        if final < self.minimum_final_lines:
            return "unfinished_lines", f"{final:.0%} end as sentences, less than {self.minimum_final_lines:.0%}"
        short = sum(len(line) <= self.short_line for line in lines) / len(lines)
        if short > self.maximum_short_lines:
            return "short_lines", f"{short:.0%} of the lines, more than {self.maximum_short_lines:.0%}"
        breaks = text.count("\n")
        again = repeated(lines)[1] / (len(text) - breaks)
        if again > self.maximum_repeated_characters:
            return "repeated_lines", f"{again:.1%} of the characters, more than {self.maximum_repeated_characters:.1%}"
        tokens = len(tokens_of(text)) if breaks > self.maximum_line_breaks else 1
        if breaks / max(tokens, 1) > self.maximum_line_breaks:
            return "line_breaks", f"{breaks / max(tokens, 1):.2f} a token, more than {self.maximum_line_breaks}"
        return None
