r"""The result that a text states: its last box, its `#### 42`, or the words after "the answer is".

In this order; the last of a kind counts. A text of one short line is its own result. The last number of a text is taken
only where a caller asks for it, because a number that happens to stand last was not stated as the result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST_TEXT = 1_000_000
"""Characters, from the end, in which a result is looked for."""
LONGEST_LINE = 100
BRACE = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{?|\\.|[{}]", re.DOTALL)
BARE = re.compile(r"[^\s$.,{}\\]+")
BETWEEN_BOXES = re.compile(r"[\s$.]*(?:,|;|and|or|, *and|, *or)?[\s$]*")
HASHES = re.compile(r"^[ \t]{0,8}####[ \t]*(\S.*)$", re.MULTILINE)
STATED = re.compile(
    r"\b(?:answer|result)(?:\*{0,3}[ \t]{0,4}:\*{0,3}|[ \t]{1,4}is[ \t]{0,4}:?|[ \t]{0,4}=)[ \t]*\n?(?=\S)",
    re.IGNORECASE,
)
END_OF_SENTENCE = re.compile(
    r"\.(?=\s|\**$)|!(?=\s+[A-Z]|\**$)|,?\s(?:because|since|which|so|where)\b|\n|$", re.IGNORECASE
)
BEFORE_A_RESULT = re.compile(r"(?:(?:approximately|about|roughly|exactly|simply|just|equal to)\s+)+", re.IGNORECASE)
NUMBER = re.compile(r"[-−]?\$?(?<![\d.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?(?:\\?%)?|[-−]?\.\d+")


@dataclass(frozen=True, slots=True)
class Stated:
    """The result as text, and where it was stated."""

    text: str
    form: str


def stated_result(text: str, *, last_number: bool) -> Stated | None:
    """The result that `text` states; None if it states none.

    Args:
        last_number: whether the last number is taken where nothing else is stated.
    """
    text = text[-LONGEST_TEXT:]
    if (boxed := last_boxed(text)) is not None:
        return Stated(boxed, "in a box")
    if hashes := HASHES.findall(text):
        return Stated(hashes[-1].strip(), "behind ####")
    if (sentence := _after_the_answer_is(text)) is not None:
        return Stated(sentence, "behind 'the answer is'")
    line = text.strip()
    if line and "\n" not in line and len(line) <= LONGEST_LINE and len(re.findall(r"[^\W\d_]{2,}", line)) <= 4:
        return Stated(line, "as the whole text")
    if last_number and (numbers := NUMBER.findall(text)):
        return Stated(numbers[-1].strip(), "as the last number")
    return None


def last_boxed(text: str) -> str | None:
    r"""Content of the last complete `\boxed{…}`; boxes joined by a comma, `and` or `or` are one list."""
    found: list[str] = []
    following = len(text)
    for start, content, end in reversed(_boxes(text)):
        if found and (following - end > 20 or not BETWEEN_BOXES.fullmatch(text, end, following)):
            break
        found.append(content.strip())
        following = start
    return ", ".join(dict.fromkeys(reversed(found))) or None


def _boxes(text: str) -> list[tuple[int, str, int]]:
    """(start, content, end) of every complete box that is not within another, in one pass over the text."""
    found: list[tuple[int, str, int]] = []
    opened: list[tuple[int, int] | None] = []
    for match in BRACE.finditer(text):
        token = match[0]
        if token == "{":
            opened.append(None)
        elif token.startswith(("\\boxed", "\\fbox")) and token.endswith("{"):
            opened.append((match.start(), match.end()))
        elif token.startswith(("\\boxed", "\\fbox")):
            if bare := BARE.match(text, match.end()):
                found.append((match.start(), bare[0], bare.end()))
        elif token == "}" and opened and (box := opened.pop()):
            while found and found[-1][0] > box[0]:
                found.pop()
            found.append((box[0], text[box[1] : match.start()], match.end()))
    return found


def _after_the_answer_is(text: str) -> str | None:
    """Words after the last "answer is" or "Answer:", up to the end of the sentence."""
    begun = [match.end() for match in STATED.finditer(text)]
    if not begun:
        return None
    end = END_OF_SENTENCE.search(text, begun[-1])
    sentence = text[begun[-1] : end.start() if end else None].strip().strip("*").strip()
    return BEFORE_A_RESULT.sub("", sentence, count=1) if BEFORE_A_RESULT.match(sentence) else sentence or None
