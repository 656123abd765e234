"""Words of a text as the published heuristics count them: runs of letters and digits, and every other sign by itself.

The rules were tuned on the tokens of NLTK and spaCy, where a full stop is a token of its own; a split at spaces would
count fewer tokens and let more pages through. Japanese and Chinese have no spaces: a run of one script (kanji or kana)
stands for a word there. Devanagari's vowel signs belong to their word, which Python's `\\w` denies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from megaphi.curation.document import Document

LANGUAGE = "language"
"""Metadata key: ISO 639-1 code; `IdentifyLanguage` fills it."""
_UNSPACED = "\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff66-\uff9d"
_LETTERS = rf"[^\W_{_UNSPACED}]+"
_MARKS = r"[\u0300-\u036f\u0900-\u0963\u0966-\u0dff\u200c\u200d]"
TOKEN = re.compile(
    rf"{_LETTERS}(?:(?:{_MARKS}+|['’_]|(?<=\d),(?=\d)|\.(?=[a-z\d])){_LETTERS})*{_MARKS}*"
    r"|[\u3040-\u309f]+|[\u30a0-\u30ff\uff66-\uff9d]+|[\u3005\u3400-\u4dbf\u4e00-\u9fff]+"
    r"|\.{2,}|--+|[^\w\s]|_"
)
STOP_WORDS: Mapping[str, frozenset[str]] = {
    "en": frozenset("the be to of and that have with".split()),  # Gopher's
    "de": frozenset("der die und in den von zu das ist nicht mit".split()),
    "es": frozenset("de la que el en y a los se del con".split()),
    "fr": frozenset("de la le et les des en un du une que est".split()),
    "pt": frozenset("de a o que e do da em um para com não".split()),
    "it": frozenset("di e il la che in a per un del è non".split()),
    "hi": frozenset("के में की है को से का और पर ने".split()),
    "ja": frozenset("の に は を が と で も へ".split()),
}
"""The commonest words of Phi-4's languages; English as in Gopher's rule, the others are the commonest of each."""
WITHOUT_SPACES = frozenset({"ja", "zh", "th"})
"""Languages whose words are one or two characters here: a least mean length says nothing of them."""


def tokens_of(text: str) -> list[str]:
    """Words and signs, in order."""
    return TOKEN.findall(text)


def language_of(document: Document) -> str:
    """The language that was found for a document; English if nobody looked."""
    return str(document.metadata.get(LANGUAGE, "en"))


def repeated(parts: Sequence[str]) -> tuple[int, int]:
    """(How many parts have come before, their characters)."""
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count += 1
            characters += len(part)
        else:
            seen.add(part)
    return count, characters
