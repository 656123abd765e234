"""A question, and the key by which an answer to it is graded.

There are four kinds of key. A number or formula (`MathAnswer`) is compared by value, an option (`Choices`) by its
letter or its words, texts (`ExactAnswers`) by their words, and a program (`CodeTests`) by running tests. A file says
the kind by the names of its fields, see `question_file.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from megaphi.conversation import Conversation
from megaphi.errors import InputError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class MathAnswer:
    """A number, formula, interval, set or the like, as LaTeX or plain text."""

    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise InputError("the answer is empty")


@dataclass(frozen=True, slots=True)
class Choices:
    """Options in the order of their letters, and the index of the right one, from 0."""

    options: tuple[str, ...]
    right: int

    def __post_init__(self) -> None:
        if not 2 <= len(self.options) <= len(LETTERS):
            raise InputError(f"{len(self.options)} options: a choice has 2 to {len(LETTERS)}")
        if not 0 <= self.right < len(self.options):
            raise InputError(f"the right option is number {self.right}, counted from 0, of {len(self.options)}")

    @property
    def letter(self) -> str:
        return LETTERS[self.right]


@dataclass(frozen=True, slots=True)
class ExactAnswers:
    """Texts each of which is a right answer: a name and its aliases."""

    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not any(text.strip() for text in self.texts):
            raise InputError("there is no text to compare an answer with")


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeTests:
    """Tests of a program in `language`, and the function that an answer must define.

    `tests` is a program of Python, which either defines `check(candidate)`, as HumanEval's do, or is a list of
    assertions about `entry_point`, one a line; or it is pairs of input and output as a list of JSON, in any language:
    `{"arguments": […], "value": …}` for a function of Python, `{"stdin": "…", "stdout": "…"}` for a whole program.
    """

    language: str
    tests: str
    entry_point: str = ""
    """The function's name; a whole program has none."""
    prefix: str = ""
    """Code that stands before the answer if the answer only continues it: imports and the head of the function."""

    def __post_init__(self) -> None:
        if not self.tests.strip():
            raise InputError("there are no tests")
        is_whole_program = not self.entry_point and self.tests.lstrip().startswith("[")
        if self.language == "python" and not is_whole_program and not self.entry_point.isidentifier():
            raise InputError(f"the entry point {self.entry_point!r} is not the name of a function")


Key = MathAnswer | Choices | ExactAnswers | CodeTests


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A prompt, and the key by which answers to it are graded."""

    name: str
    """Its `id`, or file:line."""
    prompt: Conversation | str
    key: Key


def with_options(question: str, options: tuple[str, ...]) -> str:
    """The question followed by its options, one a line, as `A) …`."""
    return "\n".join(
        [question.rstrip(), "", *(f"{letter}) {text}" for letter, text in zip(LETTERS, options, strict=False))]
    )
