r"""The option that a free answer chooses: a letter as `Answer: B`, `\boxed{B}`, `(B)` or `B`, or an option's own words.

The last line or sentence that decides is what counts, because answers think aloud before. The form `Answer: B` is that
of the evaluations in Phi-4's report (simple-evals: "The last line of your response should be of the following format:
'Answer: $LETTER'"). If the sentence that decides names two letters, the answer chose none.
"""

from __future__ import annotations

import re

from megaphi.grading.exact_match import normalised
from megaphi.grading.math_answer.extraction import last_boxed
from megaphi.grading.question import LETTERS, Choices
from megaphi.grading.verdict import Verdict, right, wrong

LONGEST_TEXT = 100_000
"""Characters, from the end, in which a choice is looked for."""
DECIDES = re.compile(
    r"\banswer\*{0,2}(?:[ \t]{0,3}:|[^.:\n]{0,30}?[ \t](?:is|would be|must be|should be)\b)|"
    r"\b(?:correct|right|best)[ \t]{1,3}(?:option|choice)[ \t]{0,3}(?:is\b|:)|"
    r"\b(?:I|we|I'll|I'd|we'll)[ \t]{1,3}(?:choose|pick|select)\b",
    re.IGNORECASE,
)
CONFIRMS = re.compile(r"\bis[ \t]{1,3}(?:the[ \t]{1,3})?(?:correct|right|best|answer)\b", re.IGNORECASE)
NEGATION = re.compile(r"\b(?:not|isn't|cannot|can't|neither|nor|wrong|incorrect)\b", re.IGNORECASE)
PHRASE = re.compile(r"(?<![\w(*])A(?=\s+(?!(?:and|or|nor|is|because|but|since|as|which|for|not)\b)[a-z])")
"""An `A` that begins a phrase (`A dog`) and is no letter of an option."""
SENTENCE = re.compile(r"[^\n]*?(?:[.!?](?=\s|$)|\n|$)")


def grade_multiple_choice(key: Choices, answer: str) -> Verdict:
    """Right if the option that the answer chooses is the right one; an answer that chooses none is wrong."""
    chosen = chosen_option(answer, key.options)
    if chosen is None:
        return wrong("it chooses no option")
    if isinstance(chosen, str):
        return wrong(chosen)
    return (right if chosen == key.right else wrong)(f"it chooses {LETTERS[chosen]}")


def chosen_option(answer: str, options: tuple[str, ...]) -> int | str | None:
    """Index of the option; None if there is none, and a reason if the answer names several at once."""
    text = answer[-LONGEST_TEXT:]
    boxed = last_boxed(text)
    if boxed is not None and (found := _options_in(boxed, options, is_short=True)):
        return _single(found)
    sentences = [match[0] for match in SENTENCE.finditer(text) if match[0].strip()]
    for sentence in reversed(sentences):
        if found := _decided_by(sentence, options):
            return _single(found)
    ends = [sentences[-1], sentences[0]] if sentences else []
    for sentence in ends:
        if found := _options_in(sentence, options, is_short=True):
            return _single(found)
    return None


def _decided_by(sentence: str, options: tuple[str, ...]) -> set[int]:
    """Options that a sentence names where it says what the answer is; none if it says nothing of the kind."""
    announced = DECIDES.search(sentence)
    if announced is None:
        confirmed = CONFIRMS.search(sentence)
        if confirmed is None or NEGATION.search(sentence):
            return set()
        return _options_in(sentence[: confirmed.start()], options, is_short=False)
    after = _bare_text(sentence[announced.end() :])
    if (first := _letter_at_once(after, options)) is not None:
        place, rest = first
        if normalised(rest).startswith(normalised(options[place])):
            return {place}
        return {place} | _letters_in(rest, options)
    return set() if NEGATION.search(after) else _options_in(after, options, is_short=False)


def _letter_at_once(text: str, options: tuple[str, ...]) -> tuple[int, str] | None:
    """The option whose letter comes first, and what follows it; a small letter stands alone."""
    letters = LETTERS[: len(options)]
    small = rf"[{letters.lower()}](?=[\s)\]}}.:*$\"']*$)"
    match = re.match(rf"[\s:*$\"'(\[{{]{{0,8}}([{letters}]|{small})(?![\w'’-])", text)
    if match is None:
        return None
    place, rest = letters.index(match[1].upper()), text[match.end() :].lstrip(")].:*$\"'} \t")
    if PHRASE.match(text, match.start(1)) and not normalised(rest).startswith(normalised(options[place])):
        return None
    return place, rest


def _bare_text(text: str) -> str:
    return re.sub(r"\\(?:text|mathrm|textbf|mathbf|boxed)\s?\{([^{}]*)\}", r"\1", text)


def _single(found: set[int]) -> int | str:
    if len(found) == 1:
        return next(iter(found))
    return "it names several options at once: " + ", ".join(LETTERS[one] for one in sorted(found))


def _options_in(text: str, options: tuple[str, ...], *, is_short: bool) -> set[int]:
    """Options that a piece of text names by letter or, if there is no letter, by their words.

    Args:
        is_short: whether the piece is nothing but the choice, so that words must be all of it and a letter its start.
    """
    text = _bare_text(text)
    bare = text.strip().strip("*$`\"' ").rstrip(".:").strip()
    by_words = {place for place, option in enumerate(options) if normalised(option) == normalised(bare) != ""}
    if len(by_words) == 1 and not re.fullmatch(r"[A-Za-z]", bare):
        return by_words
    first = _letter_at_once(text, options)
    if is_short and first is None:
        return set()
    if first is not None and normalised(first[1]).startswith(normalised(options[first[0]])):
        return {first[0]}
    found = _letters_in(text, options) | ({first[0]} if first is not None else set())
    return found or _by_words(text, options)


def _letters_in(text: str, options: tuple[str, ...]) -> set[int]:
    """Options whose capital letter stands alone; `I` is a pronoun unless it is marked."""
    letters = LETTERS[: len(options)]
    alone = letters.replace("I", "")
    marks = rf"\(([{letters}])\)|\*\*\(?([{letters}])\b|(?<![\w'’])([{alone}])(?=[).:,;*$\"'\s]|$)"
    return {letters.index(next(filter(None, match))) for match in re.findall(marks, PHRASE.sub(" ", text))}


def _by_words(text: str, options: tuple[str, ...]) -> set[int]:
    """Options whose words the text holds; of two options one of which contains the other, the longer counts."""
    said = f" {normalised(text)} "
    held = {place: f" {normalised(option)} " for place, option in enumerate(options) if normalised(option)}
    found = {place for place, words in held.items() if words in said}
    return {place for place in found if not any(held[place] in held[other] != held[place] for other in found - {place})}
