r"""Grading of a short text: a name, a date, a word, against a list of right ones.

Compared as SQuAD and TriviaQA compare (Rajpurkar 2016, Joshi 2017): lower case, no punctuation, no articles, single
spaces; before that Unicode's NFKC form, because `ﬁ`, `Ｐ` and `①` are ways of writing. Numerals are equal by value, so
that 1,000 is 1000 and 2.50 is 2.5. The answer is the whole text or, of a longer one, what it states as its result.
"""

from __future__ import annotations

import re
import string
import unicodedata
from decimal import Decimal

from megaphi.grading.math_answer.extraction import stated_result
from megaphi.grading.question import ExactAnswers
from megaphi.grading.verdict import Verdict, right, wrong

LONGEST = 2_000
PUNCTUATION = set(string.punctuation) | set("‘’“”´`«»„–—…·•¿¡")
NUMERAL = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d{1,100})(?:\.\d{1,100})?")


def grade_exact_match(key: ExactAnswers, answer: str) -> Verdict:
    """Right if the answer, or the result that it states, is one of the texts when both are normalised."""
    accepted = {normalised(text): text for text in key.texts if normalised(text)}
    candidates = [answer]
    if (stated := stated_result(answer, last_number=False)) is not None:
        candidates.append(stated.text)
    for text in candidates:
        if len(text) <= LONGEST and (found := normalised(text)) in accepted:
            return right(f"it is {accepted[found]!r}")
    return wrong("it is none of the right texts")


def normalised(text: str) -> str:
    """The form in which texts are compared; empty for a text of nothing but articles and punctuation."""
    text = unicodedata.normalize("NFKC", re.sub(r"\\(?:text|mathrm|textbf)\{([^{}]*)\}", r"\1", text)).strip()
    text = text.replace("−", "-")
    bare = text.strip(string.whitespace + "$*`\"'.")
    if NUMERAL.fullmatch(bare):
        return _numeral(bare)
    words = "".join(" " if one in "-–—/_" else one for one in text.casefold())
    words = unicodedata.normalize("NFKC", "".join(one for one in words if one not in PUNCTUATION))
    found = " ".join(word for word in words.split() if word not in ("a", "an", "the")) or " ".join(words.split())
    return _numeral(found) if NUMERAL.fullmatch(found) else found


def _numeral(text: str) -> str:
    value = Decimal(text.replace(",", ""))
    return format(value.normalize() if value else Decimal(0), "f")
