r"""The letter that a response announces, as `Answer: B`, under any choice of the published quirks.

The published way is one regular expression for each word for "answer": ignoring case, over line ends, and content with
the first letter of a longer word, so that `Answer: Because` chooses B. Each of these is a switch. With all of them off
the option is what `grading.multiple_choice` reads, and the announced form is only what it falls back to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from megaphi.evaluation.task import Switch
from megaphi.evaluation.tasks.quirks import ANSWER_ACROSS_LINES, FIRST_ANSWER, MARKUP_KEPT, PUBLISHED_FORM_ONLY
from megaphi.grading.multiple_choice import chosen_option
from megaphi.grading.question import LETTERS

LETTER_OF_A_WORD = Switch(
    name="letter-of-a-word",
    on="The letter may begin a word: `Answer: Because` chooses B.",
    off="The letter stands alone.",
    changes="grading",
)
SMALL_LETTER_WRONG = Switch(
    name="small-letter-wrong",
    on="A small letter is found, and differs from the right capital one: `Answer: b` is never right.",
    off="Small letters are letters.",
    changes="grading",
)
MARKUP_BY_LIST = Switch(
    name="markup-by-list",
    on="Some spellings of markup are cut out one after the other, so that `\\textbf{B}` becomes `bfB}` and chooses b.",
    off="Emphasis and LaTeX around words are taken away as what they are.",
    changes="grading",
)
LANGUAGES_IN_TURN = Switch(
    name="languages-in-turn",
    on="Words for `Answer` are looked for language by language, English first, wherever they stand.",
    off="Their place in the response decides.",
    changes="grading",
)
PLAIN_QUIRKS = (
    FIRST_ANSWER,
    ANSWER_ACROSS_LINES,
    LETTER_OF_A_WORD,
    SMALL_LETTER_WRONG,
    MARKUP_KEPT,
    PUBLISHED_FORM_ONLY,
)
"""Quirks of GPQA in simple-evals."""
MANY_LANGUAGES_QUIRKS = (
    FIRST_ANSWER,
    ANSWER_ACROSS_LINES,
    LETTER_OF_A_WORD,
    SMALL_LETTER_WRONG,
    MARKUP_BY_LIST,
    LANGUAGES_IN_TURN,
    PUBLISHED_FORM_ONLY,
)
"""Quirks of MMLU in simple-evals, which reads answers in the languages of its translations too."""

ZERO_WIDTH = "\u200b"
ENGLISH = ("Answer ~:",)
LANGUAGES = (
    *ENGLISH,
    "Answer ~:" + 6 * ZERO_WIDTH,
    *("উত্তর ~:", "उत्तर ~:", "উত্তরঃ", "Antwort ~:", "답변 ~:", "정답 ~:", "답 ~:"),
    *("答案 ~：", "答案 ~:", "答 ~：", "答 ~:", "答复 ~：", "答曰 ~："),
    *("الإجابة:", "الجواب:", "إجابة:", "الإجابة النهائية:", "الإجابة الصحيحة:", "الإجابة الصحيحة هي:", "الإجابة هي:"),
    *("Respuesta ~:", "Risposta ~:", "答え ~:", "答え ~：", "回答 ~:", "回答 ~：", "解答 ~:", "Jawaban ~:"),
    *("Réponse ~:", "Resposta ~:", "Jibu ~:", "Idahun ~:", "Ìdáhùn ~:", "Idáhùn ~:", "Àmọ̀nà ~:", "Àdáhùn ~:"),
    *("Ànúgọ ~:", "Àṣàyàn ~:"),
)
"""Words for "answer" with their colon, in the published order; ` ~` is white space that may be there. The second is as
Korean responses had it, with invisible characters behind the colon."""
OTHER_LETTERS = "أ-دঅবডঢＡＢＣＤ"
"""Characters that are taken for a letter besides A to D; a range of Arabic holds some that are none."""
LATIN = dict(zip("أبجدঅবডঢＡＢＣＤ", "ABCDABCDABCD", strict=True))
CUT_OUT = ("**", "$\\boxed{", "}$", "\\$", "$\\text{", "$", "\\mathrm{", "\\{", "\\text", "\\(", "\\mathbf{", "{")
CUT_OUT_LAST = "\\boxed"
BESIDE = re.compile(r"\W{0,4}(?:[,/;&]|\bor\b|\band\b)\W{0,4}[A-Z]\b")
"""Another letter that a list joins to the first: `B, C`, `A or B`."""
WRAPPED = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mathsf|boxed|fbox)\s?\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class ChosenLetter:
    """The option that a response chooses; None if it chooses none."""

    index: int | None
    as_written: str = ""
    reason: str = ""


def chosen_letter(text: str, options: tuple[str, ...], on: frozenset[str], languages: Sequence[str]) -> ChosenLetter:
    """The option that `text` chooses under the switches `on`."""
    known = languages if PUBLISHED_FORM_ONLY.name in on else LANGUAGES
    announced, is_one_of_several = _announced(_markup_taken_away(text, on), len(options), on, known)
    if PUBLISHED_FORM_ONLY.name in on or (announced and FIRST_ANSWER.name in on):
        return _as_letter(announced, on)
    free = chosen_option(text, options)
    if free is None:
        return _as_letter(announced, on)
    if isinstance(free, str):
        return _as_letter(announced, on) if announced and not is_one_of_several else ChosenLetter(None, "", free)
    is_announced = announced and LATIN.get(announced, announced.upper()) == LETTERS[free]
    return _as_letter(announced, on) if is_announced else ChosenLetter(free, LETTERS[free])


def _as_letter(announced: str, on: frozenset[str]) -> ChosenLetter:
    letter = LATIN.get(announced, announced)
    compared = letter if SMALL_LETTER_WRONG.name in on else letter.upper()
    return ChosenLetter(LETTERS.index(compared) if compared and compared in LETTERS else None, announced)


def _announced(text: str, options: int, on: frozenset[str], languages: Sequence[str]) -> tuple[str, bool]:
    """The announced letter as it is written, "" if there is none, and whether another is named beside it."""
    others = OTHER_LETTERS if len(languages) > 1 else ""
    letter = f"([A-{LETTERS[options - 1]}{others}])" + ("" if LETTER_OF_A_WORD.name in on else r"(?![\w'’-])")
    space = r"\s*" if ANSWER_ACROSS_LINES.name in on else r"[ \t]*"
    found: list[re.Match[str]] = []
    for word in languages:
        matches = list(re.finditer(word.replace(" ~", space) + space + letter, text, re.IGNORECASE))
        found += matches
        if matches and LANGUAGES_IN_TURN.name in on:
            break
    if not found:
        return "", False
    counts = (min if FIRST_ANSWER.name in on else max)(found, key=lambda match: match.start())
    return counts[1], BESIDE.match(text, counts.end()) is not None


def _markup_taken_away(text: str, on: frozenset[str]) -> str:
    if MARKUP_KEPT.name in on:
        return text
    if MARKUP_BY_LIST.name in on:
        for spelling in (*CUT_OUT, CUT_OUT_LAST):
            text = text.replace(spelling, "")
        return text
    for _ in range(3):
        text = WRAPPED.sub(r"\1", text)
    return re.sub(rf"\*\*|__|`|\\[()\[\]]|\\?\$|{ZERO_WIDTH}", "", text)
