"""C4's rules (Raffel et al. 2020, JMLR 21/140, section 2.2): keep the lines of a page that end as sentences do.

Lines without a final mark, of fewer than three words, about JavaScript or cookies go; pages with a curly bracket, with
"lorem ipsum" or with fewer than five sentences left go whole. Two things to know: TeX formulas have curly brackets, so
`drop_curly_brackets=False` belongs on pages whose maths was kept; and the rules are of English punctuation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from megaphi.config import Range
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.step import OfOne, StepContext

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_FINAL = (".", "?", "!", '"', "'")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s+\S)")


@dataclass(frozen=True, kw_only=True, slots=True)
class C4Lines:
    """Keep the lines that are sentences, and the pages that have some."""

    VERSION: ClassVar[int] = 1
    minimum_sentences: Annotated[int, Range(minimum=0)] = 5
    minimum_line_words: Annotated[int, Range(minimum=0)] = 3
    longest_word: Annotated[int, Range(minimum=1)] = 1_000
    """Characters; a line with a longer word goes (in the authors' code, not in the paper)."""
    final_punctuation: bool = True
    """Only lines that end with one of . ? ! and quotation marks, and not with an ellipsis."""
    drop_curly_brackets: bool = True
    """Pages with a { in a line that would be kept go whole."""
    remove_citations: bool = True
    """Take [1], [edit] and [citation needed] out of lines."""
    drop_policy_lines: bool = True
    """Lines about cookies, privacy and terms of use (in the authors' code, not in the paper)."""

    def open(self, context: StepContext) -> OfOne:
        return self.look

    def look(self, document: Document) -> Outcome:
        kept, sentences = [], 0
        for line in document.text.splitlines():
            line = self._kept(line.strip())
            if line is None:
                continue
            lowered = line.lower()
            if "lorem ipsum" in lowered:
                return Rejected(document, "lorem_ipsum")
            if "javascript" in lowered:
                continue
            if self.drop_curly_brackets and "{" in line:
                return Rejected(document, "curly_bracket", line[:100])
            if self.drop_policy_lines and any(phrase in lowered for phrase in _POLICY):
                continue
            kept.append(line)
            sentences += 1 + len(_SENTENCE_END.findall(line))
        if sentences < self.minimum_sentences:
            detail = f"{sentences} in {len(kept)} lines kept, fewer than {self.minimum_sentences}"
            return Rejected(document, "too_few_sentences", detail)
        return document.with_text("\n".join(kept))

    def _kept(self, line: str) -> str | None:
        """The line without citations, or None if it is no sentence."""
        words = line.split()
        if len(words) < self.minimum_line_words:
            return None
        if len(line) > self.longest_word and max(map(len, words)) > self.longest_word:
            return None
        if self.remove_citations and "[" in line:
            line = _CITATION.sub("", line)
        if self.final_punctuation and (not line.endswith(_FINAL) or line.endswith("...")):
            return None
        return line
