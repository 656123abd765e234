"""Gopher's two families of rules for web pages (Rae et al. 2021, arXiv 2112.11446, appendix A1.1, table A1).

`GopherQuality` wants a text to look like prose: enough words of usual length, few signs, a few of the commonest words.
`GopherRepetition` measures what share of a text is said again: lines, paragraphs, the commonest 2- to 4-grams and all
repeated 5- to 10-grams. The paper leaves open what is counted; here it is what datatrove counts, which made FineWeb:
the first occurrence of an n-gram is no repetition, and shares are of all characters of the text.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, ClassVar

from megaphi.config import Range
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.filter.words import STOP_WORDS, WITHOUT_SPACES, language_of, repeated, tokens_of
from megaphi.curation.step import OfOne, StepContext

Share = Annotated[float, Range(minimum=0, maximum=1)]
_PARAGRAPHS = re.compile(r"\n{2,}")
_LINES = re.compile(r"\n+")
_ELLIPSES = ("...", "…")


@dataclass(frozen=True, kw_only=True, slots=True)
class GopherQuality:
    """Keep texts that look like prose."""

    VERSION: ClassVar[int] = 1
    minimum_words: Annotated[int, Range(minimum=0)] = 50
    maximum_words: Annotated[int, Range(minimum=1)] = 100_000
    minimum_mean_length: Annotated[float, Range(minimum=0)] = 3.0
    """Characters of the mean word; not asked of languages without spaces."""
    maximum_mean_length: Annotated[float, Range(above=0)] = 10.0
    maximum_symbols: Annotated[float, Range(minimum=0)] = 0.1
    """Hash signs per token, and ellipses per token."""
    maximum_bullet_lines: Share = 0.9
    """Share of lines that begin with a bullet or a hyphen."""
    maximum_ellipsis_lines: Share = 0.3
    minimum_alphabetic: Share = 0.8
    """Share of tokens with a letter in them."""
    minimum_stop_words: Annotated[int, Range(minimum=0)] = 2
    """Different ones of the commonest words of the document's language; not asked of a language that has no list."""

    def open(self, context: StepContext) -> OfOne:
        return self.look

    def look(self, document: Document) -> Outcome:
        found = self._fault(document.text, language_of(document))
        return Rejected(document, *found) if found else document

    def _fault(self, text: str, language: str) -> tuple[str, str] | None:
        tokens = tokens_of(text)
        words = [token for token in tokens if token[0].isalnum() or token[-1].isalnum()]
        if len(words) < self.minimum_words or not words:
            return "too_few_words", f"{len(words)} words, fewer than {self.minimum_words}"
        if len(words) > self.maximum_words:
            return "too_many_words", f"{len(words)} words, more than {self.maximum_words}"
        mean = sum(map(len, words)) / len(words)
        if mean < self.minimum_mean_length and language not in WITHOUT_SPACES:
            return "mean_word_length", f"{mean:.2f} characters, fewer than {self.minimum_mean_length}"
        if mean > self.maximum_mean_length:
            return "mean_word_length", f"{mean:.2f} characters, more than {self.maximum_mean_length}"
        return self._symbols(text, len(tokens)) or self._lines(text) or self._language(tokens, language)

    def _symbols(self, text: str, tokens: int) -> tuple[str, str] | None:
        for sign, count in (("#", text.count("#")), ("ellipsis", sum(map(text.count, _ELLIPSES)))):
            if count / tokens > self.maximum_symbols:
                return "symbols", f"{sign}: {count} in {tokens} tokens, more than {self.maximum_symbols:.0%}"
        return None

    def _lines(self, text: str) -> tuple[str, str] | None:
        lines = text.splitlines()
        bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
        if bullets / len(lines) > self.maximum_bullet_lines:
            return "bullet_lines", f"{bullets} of {len(lines)} lines, more than {self.maximum_bullet_lines:.0%}"
        ellipses = sum(line.rstrip().endswith(_ELLIPSES) for line in lines)
        if ellipses / len(lines) > self.maximum_ellipsis_lines:
            return "ellipsis_lines", f"{ellipses} of {len(lines)} lines, more than {self.maximum_ellipsis_lines:.0%}"
        return None

    def _language(self, tokens: list[str], language: str) -> tuple[str, str] | None:
        alphabetic = sum(token.isalpha() or any(map(str.isalpha, token)) for token in tokens)
        if alphabetic / len(tokens) < self.minimum_alphabetic:
            return "few_alphabetic", f"{alphabetic} of {len(tokens)} tokens, less than {self.minimum_alphabetic:.0%}"
        if language in STOP_WORDS:
            common = STOP_WORDS[language].intersection(tokens)
            if len(common) < self.minimum_stop_words:
                return "few_stop_words", f"{len(common)} of {language}'s, fewer than {self.minimum_stop_words}"
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class GopherRepetition:
    """Reject texts that say the same again and again."""

    VERSION: ClassVar[int] = 1
    maximum_lines: Share = 0.3
    """Share of lines that came before."""
    maximum_paragraphs: Share = 0.3
    maximum_line_characters: Share = 0.2
    maximum_paragraph_characters: Share = 0.2
    top_ngrams: tuple[Share, ...] = (0.20, 0.18, 0.16)
    """Share of characters in the commonest 2-gram, 3-gram, 4-gram; further numbers go on with 5."""
    repeated_ngrams: tuple[Share, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    """Share of characters in 5-grams, 6-grams ... that came before, overlaps counted once."""

    def open(self, context: StepContext) -> OfOne:
        return self.look

    def look(self, document: Document) -> Outcome:
        text = document.text
        if not text.strip():
            return Rejected(document, "no_text")
        found = self._lines(text) or self._ngrams(text)
        return Rejected(document, *found) if found else document

    def _lines(self, text: str) -> tuple[str, str] | None:
        for name, parts, most, most_characters in (
            ("paragraphs", _PARAGRAPHS.split(text.strip()), self.maximum_paragraphs, self.maximum_paragraph_characters),
            ("lines", _LINES.split(text), self.maximum_lines, self.maximum_line_characters),
        ):
            count, characters = repeated(parts)
            if count / len(parts) > most:
                return f"repeated_{name}", f"{count} of {len(parts)}, more than {most:.0%}"
            if characters / len(text) > most_characters:
                return f"repeated_{name}", f"{characters} of {len(text)} characters, more than {most_characters:.0%}"
        return None

    def _ngrams(self, text: str) -> tuple[str, str] | None:
        tokens = tokens_of(text)
        for size, most in enumerate(self.top_ngrams, start=2):
            share = top_ngram_characters(tokens, size) / len(text)
            if share > most:
                return "top_ngram", f"{size}-gram: {share:.0%} of the characters, more than {most:.0%}"
        for size, most in enumerate(self.repeated_ngrams, start=5):
            characters = repeated_ngram_characters(tokens, size)
            if not characters:  # nor are longer ones repeated
                break
            if characters / len(text) > most:
                return "repeated_ngrams", f"{size}-grams: {characters / len(text):.0%}, more than {most:.0%}"
        return None


def top_ngram_characters(tokens: list[str], size: int) -> int:
    """Characters in all occurrences of the commonest n-gram, with a space between tokens; 0 if none comes twice."""
    counts = Counter(zip(*(tokens[start:] for start in range(size)), strict=False))
    if not counts:
        return 0
    ngram, count = counts.most_common(1)[0]
    return (sum(map(len, ngram)) + size - 1) * count if count > 1 else 0


def repeated_ngram_characters(tokens: list[str], size: int) -> int:
    """Characters in n-grams that came before, without spaces; behind one that did, the next may begin."""
    ngrams = list(zip(*(tokens[start:] for start in range(size)), strict=False))
    if len(set(ngrams)) == len(ngrams):
        return 0
    ends = [0, *accumulate(map(len, tokens))]
    seen: set[tuple[str, ...]] = set()
    place = characters = 0
    while place < len(ngrams):
        if ngrams[place] in seen:
            characters += ends[place + size] - ends[place]
            place += size
        else:
            seen.add(ngrams[place])
            place += 1
    return characters
