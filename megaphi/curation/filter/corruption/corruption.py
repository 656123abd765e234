"""The step that rejects corrupted text, as Phi-4's report does: "n-gram statistics and compression ratio".

First the signs that a share can be put on without knowing the language: characters that no text has, mojibake, encoded
data, words with digits among their letters, one line or one sign over and over. Then windows of 1,000 characters are
compared with clean text of the language: bits a character under a character n-gram model, and how well they compress.
Without a file of statistics only the compression counts, by ranges that hold for European languages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from megaphi.config import FilePath, Range
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.filter.corruption import signs
from megaphi.curation.filter.corruption.statistics import (
    LanguageStatistics,
    ratio_of,
    read_statistics,
    window_bits,
    windows,
)
from megaphi.curation.filter.encoded_data import encoded_runs
from megaphi.curation.filter.gopher import Share
from megaphi.curation.filter.words import WITHOUT_SPACES, language_of
from megaphi.curation.step import OfOne, StepContext

Ratio = Annotated[float, Range(minimum=0)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Corruption:
    """Reject text that decoding, scanning, extraction or a machine has spoiled."""

    VERSION: ClassVar[int] = 1
    statistics: FilePath = ""
    """File that `megaphi curate train-statistics` makes from clean text, by language."""
    maximum_broken: Share = 0.001
    """Share of control characters, replacement characters and the like."""
    maximum_mojibake: Share = 0.005
    """Share of characters that are UTF-8 read as Windows-1252."""
    maximum_encoded: Share = 0.3
    """Share of base64, hexadecimal numbers and escapes."""
    maximum_garbled: Share = 0.15
    """Share of words with digits or signs among their letters, and of letters that stand alone in rows."""
    maximum_repeated: Share = 0.3
    """Share of characters in runs of one sign, or in lines that are the same as the line before."""
    minimum_ratio: Ratio = 0.2
    """Compressed bytes a byte of a window; for languages without statistics."""
    maximum_ratio: Ratio = 0.68
    """The same; not asked of languages without spaces, whose bytes are denser."""
    maximum_odd_windows: Share = 0.2
    """Share of windows beyond their range."""

    def open(self, context: StepContext) -> OfOne:
        known = read_statistics(self.statistics) if self.statistics else {}

        def look(document: Document) -> Outcome:
            text, language = document.text, language_of(document)
            found = self._signs(text) or self._windows(text, language, known.get(language))
            return Rejected(document, *found) if found else document

        return look

    def _signs(self, text: str) -> tuple[str, str] | None:
        rows: Sequence[tuple[str, Callable[[str], float], float]] = (
            ("broken_characters", signs.broken_share, self.maximum_broken),
            ("mojibake", signs.mojibake_share, self.maximum_mojibake),
            ("encoded_data", _encoded_share, self.maximum_encoded),
            ("repeated_lines", signs.repeated_line_share, self.maximum_repeated),
            ("repeated_sign", signs.run_share, self.maximum_repeated),
            ("garbled_words", signs.garbled_share, self.maximum_garbled),
        )
        for reason, measure, most in rows:
            if (share := measure(text)) > most:
                return reason, f"{share:.1%}, more than {most:.1%}"
        return None

    def _windows(self, text: str, language: str, known: LanguageStatistics | None) -> tuple[str, str] | None:
        parts = windows(text)
        if not parts:
            return None
        low, high = known.ratio if known else (self.minimum_ratio, self.maximum_ratio)
        if not known and language in WITHOUT_SPACES:
            high = 1.0
        ratios = [ratio_of(part) for part in parts]
        for reason, odd, limit in (
            ("compresses_too_well", [ratio for ratio in ratios if ratio < low], low),
            ("compresses_too_little", [ratio for ratio in ratios if ratio > high], high),
        ):
            if len(odd) / len(parts) > self.maximum_odd_windows:
                return reason, f"{len(odd)} of {len(parts)} windows beyond {limit:.2f}, as {odd[0]:.2f}"
        return self._ngrams(text, known) if known else None

    def _ngrams(self, text: str, known: LanguageStatistics) -> tuple[str, str] | None:
        bits = window_bits(text, known)
        odd = bits[bits > known.bits]
        if len(odd) / len(bits) > self.maximum_odd_windows:
            return "unlikely_ngrams", f"{len(odd)} of {len(bits)} windows beyond {known.bits:.2f} bits, as {odd[0]:.2f}"
        return None


def _encoded_share(text: str) -> float:
    return sum(map(len, encoded_runs(text))) / max(len(text), 1)


def languages_with_statistics(statistics: Mapping[str, LanguageStatistics]) -> str:
    """A line for people: the languages, and the ranges of their windows."""
    return "; ".join(
        f"{name} up to {each.bits:.2f} bits, ratio {each.ratio[0]:.2f} to {each.ratio[1]:.2f}"
        for name, each in statistics.items()
    )
