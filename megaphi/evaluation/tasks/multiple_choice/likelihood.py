"""Multiple choice for base models, by the log-likelihood of each option after the question, as lm-eval defines it.

MMLU's continuations are the letters, with five worked examples of the subject; those of ARC are the options' words,
and a second score divides each log-likelihood by the number of characters of its option (`acc_norm`). An option with a
score that no other exceeds is chosen, the first of equals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from megaphi.errors import InputError
from megaphi.evaluation.task import Asked, Choose, Grade, GradingTools, Item, Record, TaskResponse
from megaphi.evaluation.tasks.multiple_choice.choice_records import (
    ANSWER,
    OPTIONS,
    QUESTION,
    choice_item,
    exam_item,
    mmlu_item,
)
from megaphi.evaluation.tasks.unjudged import QuestionTask
from megaphi.evaluation.tasks.wording import chosen_shots, filled
from megaphi.grading.question import LETTERS, Choices

LETTER_WORDING = {
    "opening": "Questions about {subject}, each with its choices and the right answer.\n\n",
    "question": "{question}\n{options}\nAnswer:",
}
WORDS_WORDING = {"opening": "", "question": "Question: {question}\nAnswer:"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LikelihoodTask(QuestionTask):
    """Questions with options, answered by the option with the highest log-likelihood."""

    name: str
    about: str
    by_letters: bool
    """True: continuations are letters, after a question that lists the options. False: they are the options' words."""
    item: Callable[[Record], Item] = choice_item
    columns: tuple[str, ...] = (QUESTION, OPTIONS, ANSWER)
    shots_of_group: bool = False
    wording: Mapping[str, str]

    @property
    def scores(self) -> tuple[str, ...]:
        return ("acc",) if self.by_letters else ("acc_norm", "acc")

    def read(self, record: Record) -> Item:
        item = self.item(record)
        empty = [LETTERS[place] for place, text in enumerate(item.key.options) if not text]
        if empty and not self.by_letters:
            raise InputError(f"option {empty[0]} is empty, so it has no log-likelihood")
        return item

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        worked = chosen_shots(self.name, self.shots, item, shots, same_group=self.shots_of_group)
        subject = item.group.rpartition("/")[2].replace("_", " ")
        parts = [filled(self.wording["opening"], subject=subject)]
        parts += [f"{self._question(one)} {self._continuation(one.key, one.key.right)}\n\n" for one in worked]
        options = range(len(item.key.options))
        return Choose(
            context="".join(parts) + self._question(item),
            continuations=tuple(f" {self._continuation(item.key, place)}" for place in options),
        )

    def _question(self, item: Item) -> str:
        listed = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, item.key.options, strict=False))
        question = item.question.strip() if self.by_letters else item.question
        return filled(self.wording["question"], question=question, options=listed)

    def _continuation(self, key: Choices, place: int) -> str:
        return LETTERS[place] if self.by_letters else key.options[place]

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        return [self._grade(one) for one in responses]

    def _grade(self, response: TaskResponse) -> Grade:
        key: Choices = response.item.key
        totals = [one.total for one in response.likelihoods]
        if any(map(math.isnan, totals)):
            return Grade(
                scores=dict.fromkeys(self.scores, 0.0), problem="undecided", note="a log-likelihood is no number"
            )
        chosen = {"acc": _highest(totals)}
        if not self.by_letters:
            chosen["acc_norm"] = _highest([total / len(text) for total, text in zip(totals, key.options, strict=True)])
        return Grade(
            scores={name: float(chosen[name] == key.right) for name in self.scores},
            extracted=LETTERS[chosen[self.scores[0]]],
            details={"log_likelihoods": totals, "chosen": {name: LETTERS[place] for name, place in chosen.items()}},
        )


def _highest(scores: Sequence[float]) -> int:
    """Index of the highest score, of the first one of equals."""
    return max(range(len(scores)), key=scores.__getitem__)


def _arc(name: str, shots: int) -> LikelihoodTask:
    return LikelihoodTask(
        name=name,
        about=f"ARC-Challenge by log-likelihood of the options' words, {shots}-shot (allenai/ai2_arc)",
        by_letters=False,
        shots=shots,
        wording=dict(WORDS_WORDING),
    )


TASKS = (
    LikelihoodTask(
        name="mmlu_base",
        about="MMLU by log-likelihood of the letters, 5-shot from `dev` of the subject (cais/mmlu)",
        by_letters=True,
        item=mmlu_item,
        shots=5,
        shots_of_group=True,
        wording=dict(LETTER_WORDING),
    ),
    _arc("arc_challenge_base", 1),
    _arc("arc_challenge_base_25", 25),
    LikelihoodTask(
        name="exam_base",
        about="A pool of an exam's questions by log-likelihood of the options' words: question, choices, answer",
        by_letters=False,
        item=exam_item,
        wording=dict(WORDS_WORDING),
    ),
    LikelihoodTask(
        name="exam_base_letters",
        about="A pool of an exam's questions by log-likelihood of the letters: question, choices, answer",
        by_letters=True,
        item=exam_item,
        wording={**LETTER_WORDING, "opening": ""},
    ),
)
