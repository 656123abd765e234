r"""The number that a response gives as its answer, in eleven languages, under any choice of MGSM's published quirks.

The published way splits the response at the last mention of the language's word for "answer", takes out the commas,
and compares the last number behind it with the key as text. So `-18` is 18, `1.234` is no 1234, and ১৮ is not 18.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal

from megaphi.evaluation.task import Switch
from megaphi.evaluation.tasks.quirks import PUBLISHED_FORM_ONLY
from megaphi.grading.math_answer.extraction import stated_result

WORD_WITHOUT_COLON = Switch(
    name="word-without-colon",
    on="The last mention of the language's word for `answer` announces the number, in this case of letters only.",
    off="The word is followed by a colon; its case does not matter, and the English word will do.",
    changes="grading",
)
LAST_NUMBER = Switch(
    name="last-number",
    on="The last number of all that follows is the answer: `18 (6 times 3)` gives 3.",
    off="The number directly behind the announcement is the answer, or else the last one of the line; of an equation, "
    "the side that is one number.",
    changes="grading",
)
SIGN_DROPPED = Switch(
    name="sign-dropped",
    on="A minus sign is not read: -18 is 18.",
    off="It is read.",
    changes="grading",
)
COMMAS_CUT_OUT = Switch(
    name="commas-cut-out",
    on="Commas are taken out and points are decimal in every language: 1.234 is no 1234, and 18,00 is 1800.",
    off="Thousands and decimals are read as the language writes them.",
    changes="grading",
)
COMPARED_AS_TEXT = Switch(
    name="compared-as-text",
    on="Numbers are equal if their texts are: digits of another script, or 018, differ.",
    off="They are equal if their values are.",
    changes="grading",
)
NUMBER_QUIRKS = (
    WORD_WITHOUT_COLON,
    LAST_NUMBER,
    SIGN_DROPPED,
    COMMAS_CUT_OUT,
    COMPARED_AS_TEXT,
    PUBLISHED_FORM_ONLY,
)
ANSWER_WORDS = {
    "bn": "উত্তর",
    "de": "Antwort",
    "en": "Answer",
    "es": "Respuesta",
    "fr": "Réponse",
    "ja": "答え",
    "ru": "Ответ",
    "sw": "Jibu",
    "te": "సమాధానం",
    "th": "คำตอบ",
    "zh": "答案",
}
"""The word that announces an answer in each language of MGSM."""
DECIMAL_COMMA = ("de", "es", "fr", "ru")
INDIAN_GROUPS = ("bn", "te")
SPACES = "\u00a0\u202f\u2009"
BEGINS_WITH_A_NUMBER = re.compile(r"(?:\\(?:boxed|text|mathrm|mathbf|textbf)\s?\{|[\s*_`$€£¥₹\\(\[{~≈+−-])*\d")
LONGEST_NUMBER = 100
"""Digits; a longer one is no answer."""


@dataclass(frozen=True, slots=True)
class ReadNumber:
    """The number in a response: its text, and whether it equals the key."""

    text: str
    is_right: bool


def read_number(text: str, key: str, language: str, on: frozenset[str]) -> ReadNumber:
    """The number that `text` gives, compared with the key, a whole number in plain digits; "" if it gives none."""
    behind = _announced(text, language, on)
    if behind is None and PUBLISHED_FORM_ONLY.name not in on:
        stated = stated_result(text, last_number=False)
        behind = stated.text if stated is not None else None
    if behind is None:
        return ReadNumber("", False)
    plain = behind.replace(",", "") if COMMAS_CUT_OUT.name in on else plain_numbers(behind, language)
    number = _picked(plain, on)
    return ReadNumber(number, bool(number) and _is_equal(number, key, on))


def _announced(text: str, language: str, on: frozenset[str]) -> str | None:
    """Everything behind the last announcement."""
    word = ANSWER_WORDS[language]
    if WORD_WITHOUT_COLON.name in on:
        return text.rpartition(word)[2].strip() if word in text else None
    found = list(re.finditer(rf"(?:{word}|Answer)[\s*_]*[:：]", unicodedata.normalize("NFC", text), re.IGNORECASE))
    return unicodedata.normalize("NFC", text)[found[-1].end() :].strip() if found else None


def _picked(text: str, on: frozenset[str]) -> str:
    """One of the numbers of the text, without a point at its end."""
    if LAST_NUMBER.name in on:
        numbers = _numbers(text, on)
        return numbers[-1] if numbers else ""
    line = next((line for line in text.splitlines() if re.search(r"\d", line)), "")
    sides = [side for side in line.split("=") if _numbers(side, on)]
    if not sides:
        return ""
    side = next((side for side in reversed(sides) if len(_numbers(side, on)) == 1), sides[-1])
    return _numbers(side, on)[0 if BEGINS_WITH_A_NUMBER.match(side) else -1]


def _numbers(text: str, on: frozenset[str]) -> list[str]:
    sign = "" if SIGN_DROPPED.name in on else r"(?:(?<![\w)])[-−]\s?(?:\\?[$€£]\s?)?)?"
    numbers = [match[0].rstrip(".") for match in re.finditer(rf"{sign}\d+\.?\d*", text)]
    return numbers if sign == "" else [re.sub(r"[-−]\D*", "-", number) for number in numbers]


def plain_numbers(text: str, language: str) -> str:
    """The text with numbers as `1234.5`, whatever the language writes between their digits."""
    groups = "," + SPACES + ("." + " " if language in DECIMAL_COMMA else "")
    if language in INDIAN_GROUPS:
        text = re.sub(r"(?<![\d,])\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])", lambda match: match[0].replace(",", ""), text)
    text = re.sub(
        rf"(?<![\d.,])\d{{1,3}}(?:([{re.escape(groups)}])\d{{3}})(?:\1\d{{3}})*(?!\d)",
        lambda match: re.sub(r"\D", "", match[0]),
        text,
    )
    return re.sub(r"(?<=\d),(?=\d)", ".", text) if language in DECIMAL_COMMA else text


def _is_equal(number: str, key: str, on: frozenset[str]) -> bool:
    if COMPARED_AS_TEXT.name in on:
        shortened = number.rstrip("0").rstrip(".") if "." in number else number
        return shortened == key
    digits = "".join(str(unicodedata.decimal(one)) if one.isdecimal() else one for one in number)
    return len(digits) <= LONGEST_NUMBER and Decimal(digits) == Decimal(key)
