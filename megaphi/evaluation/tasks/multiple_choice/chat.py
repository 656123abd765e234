"""Multiple choice asked in words: MMLU, MMLU-Pro, ARC-Challenge, and any pool of an exam's questions.

The model reasons and ends with `Answer: B`. MMLU follows simple-evals. MMLU-Pro, ARC and exams are not in it: they are
asked and graded as its GPQA, with as many letters as there are options. Phi-4's own prompts for MMLU-Pro are not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from megaphi.evaluation.task import Asked, Continue, Grade, GradingTools, Item, Record, Switch, TaskResponse
from megaphi.evaluation.tasks.multiple_choice.announced_letters import (
    ENGLISH,
    LANGUAGES,
    MANY_LANGUAGES_QUIRKS,
    PLAIN_QUIRKS,
    chosen_letter,
)
from megaphi.evaluation.tasks.multiple_choice.choice_records import (
    ANSWER,
    OPTIONS,
    QUESTION,
    choice_item,
    exam_item,
    mmlu_item,
)
from megaphi.evaluation.tasks.quirks import without_answer
from megaphi.evaluation.tasks.unjudged import QuestionTask
from megaphi.evaluation.tasks.wording import conversation, filled
from megaphi.grading.question import LETTERS, Choices
from megaphi.sampling import Sampling

WORDING = {
    "system": "",
    "question": (
        "Solve this multiple-choice question. Reason in steps first, and finish with a line that reads "
        "'Answer: $LETTER', without the quotes, where $LETTER is your choice among {letters}."
        "\n\n{question}\n\n{options}"
    ),
}
RULES = Sampling(max_tokens=2_048, temperature=0.5)
"""As simple-evals samples: temperature 0.5, 2,048 tokens for its newer models."""


def choice_prompt(wording: Mapping[str, str], question: str, options: Sequence[str]) -> str:
    """The question with its options, one a line as `A) …`, after the request for the form of the answer."""
    letters = LETTERS[: len(options)]
    listed = "\n".join(f"{letter}) {text}" for letter, text in zip(letters, options, strict=True))
    return filled(wording["question"], letters=letters, question=question, options=listed)


def choice_grade(response: TaskResponse, key: Choices, on: frozenset[str], languages: Sequence[str]) -> Grade:
    """1 for the right option, 0 for any other and for none."""
    chosen = chosen_letter(response.text, key.options, on, languages)
    return Grade(
        scores={"accuracy": float(chosen.index == key.right)},
        extracted=chosen.as_written,
        problem="" if chosen.as_written else without_answer(response),
        note=chosen.reason,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceTask(QuestionTask):
    """Questions with options, answered in words that end with a letter."""

    name: str
    about: str
    item: Callable[[Record], Item] = choice_item
    columns: tuple[str, ...] = (QUESTION, OPTIONS, ANSWER)
    switches: tuple[Switch, ...] = PLAIN_QUIRKS
    languages: tuple[str, ...] = ENGLISH
    rules: Sampling = RULES
    repeats: int = 1
    wording: Mapping[str, str] = field(default_factory=lambda: dict(WORDING))
    scores: tuple[str, ...] = ("accuracy",)

    def read(self, record: Record) -> Item:
        return self.item(record)

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        prompt = conversation(self.wording, choice_prompt(self.wording, item.question, item.key.options))
        return Continue(prompt=prompt, rules=self.rules, repeats=self.repeats)

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        return [choice_grade(one, one.item.key, on, self.languages) for one in responses]


TASKS = (
    ChoiceTask(
        name="mmlu",
        about="MMLU: 14,042 questions of 57 subjects with four options (cais/mmlu)",
        item=mmlu_item,
        switches=MANY_LANGUAGES_QUIRKS,
        languages=LANGUAGES,
    ),
    ChoiceTask(
        name="mmlu_pro",
        about="MMLU-Pro: 12,032 questions of 14 subjects with up to ten options (TIGER-Lab/MMLU-Pro)",
    ),
    ChoiceTask(
        name="arc_challenge",
        about="ARC-Challenge: 1,172 questions of school science with three to five options (allenai/ai2_arc)",
    ),
    ChoiceTask(
        name="exam",
        item=exam_item,
        about="A pool of an exam's questions with options: question, choices, answer",
    ),
)
