r"""MATH: 5,000 competition problems, whose answers are formulas; chat models are asked ten times, base models 4-shot.

simple-evals takes what stands behind the first `Answer:` and has a model judge whether it equals the key. Corrected,
the result that the response states counts, and two verifiers that share no method compare it: no judge is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from megaphi.errors import InputError
from megaphi.evaluation.task import Asked, Continue, Grade, GradingTools, Item, Record, Switch, TaskResponse
from megaphi.evaluation.tasks.columns import (
    column,
    has_column,
    item_name,
    label_column,
    shown,
    text_column,
    with_repetitions,
)
from megaphi.evaluation.tasks.mathematics.equality_judge import EQUALITY, JUDGE_QUIRKS, judged_equal
from megaphi.evaluation.tasks.quirks import ANSWER_ACROSS_LINES, FIRST_ANSWER, PUBLISHED_FORM_ONLY, without_answer
from megaphi.evaluation.tasks.unjudged import QuestionTask
from megaphi.evaluation.tasks.wording import chosen_shots, conversation, filled
from megaphi.grading.math_answer.extraction import last_boxed, stated_result
from megaphi.grading.question import MathAnswer, Question
from megaphi.sampling import Sampling

JUDGE_DECIDES = Switch(
    name="judge-decides",
    on="A model that is asked yes or no decides whether answer and key are equal.",
    off="Two verifiers compare their values; what they disagree about is undecided.",
    changes="grading",
)
JUDGE_ASKED_ABOUT_NOTHING = Switch(
    name="judge-asked-about-nothing",
    on="Where no answer is found, the judge compares the key with the word `None`.",
    off="Where no answer is found, there is nothing to judge: it is wrong.",
    changes="grading",
)
PROBLEM = "problem|question|Question"
WORDING = {
    "system": "",
    "question": (
        "Work out the solution of this mathematical problem in steps. Finish with a line that reads 'Answer: $ANSWER', "
        "without the quotes, where $ANSWER is the result.\n\n{question}\n\n"
        "Nothing but the result follows 'Answer:' on that line, and it needs no box."
    ),
    "equality": EQUALITY,
}
RULES = Sampling(max_tokens=2_048, temperature=0.5)
BASE_RULES = Sampling(max_tokens=1_024, stop=("Problem:",))
BASE_WORDING = {"opening": "", "question": "Problem:\n{question}\n\nSolution:"}


@dataclass(frozen=True, slots=True)
class SolvedProblem:
    """The result of a problem, and its solution if the file has one."""

    result: str
    solution: str = ""


@dataclass(frozen=True, slots=True)
class FoundResult:
    """A result found in a response, and the text from which the verifiers read it."""

    text: str
    graded: str


def problem_item(record: Record) -> Item:
    """A problem by the columns of MATH (`problem`, `solution`), MATH-500 (and `answer`) or simple-evals."""
    problem = text_column(record, PROBLEM)
    solution = text_column(record, "solution") if has_column(record, "solution") else ""
    result = _result(record, solution)
    group = "/".join(filter(None, (label_column(record, "type|subject"), label_column(record, "level"))))
    return Item(
        name=item_name(record, "unique_id|id", problem, result),
        question=problem,
        gold=result,
        key=SolvedProblem(result, solution),
        group=group,
    )


def _result(record: Record, solution: str) -> str:
    if has_column(record, "answer|Answer"):
        name, value = column(record, "answer|Answer")
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise InputError(f"column {name!r} must be a formula or a number, not {shown(value)}")
        return str(value).strip()
    if not solution:
        raise InputError("columns 'answer' and 'solution' are both missing: one must give the result")
    boxed = last_boxed(solution)
    if boxed is None:
        raise InputError("column 'solution' has no \\boxed result")
    return boxed


def found_result(text: str, on: frozenset[str]) -> FoundResult | None:
    """The result that a response gives under the switches `on`; None if there is none."""
    space = r"\s*" if ANSWER_ACROSS_LINES.name in on else r"[ \t]*"
    matches = re.findall(rf"Answer{space}:{space}([^\n]+)", text, re.IGNORECASE)
    announced = matches[0 if FIRST_ANSWER.name in on else -1] if matches else None
    if announced is None or not {FIRST_ANSWER.name, PUBLISHED_FORM_ONLY.name} & on:
        stated = None if PUBLISHED_FORM_ONLY.name in on else stated_result(text, last_number=False)
        if stated is not None:
            return FoundResult(stated.text, text)
    return None if announced is None else FoundResult(announced, f"Answer: {announced}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemTask:
    """Problems whose answers are formulas, solved in words."""

    name: str = "math"
    about: str = "MATH: 5,000 competition problems in five levels, ten answers to each (hendrycks/competition_math)"
    columns: tuple[str, ...] = (PROBLEM, "answer|Answer|solution")
    switches: tuple[Switch, ...] = (
        FIRST_ANSWER,
        ANSWER_ACROSS_LINES,
        PUBLISHED_FORM_ONLY,
        JUDGE_DECIDES,
        JUDGE_ASKED_ABOUT_NOTHING,
        *JUDGE_QUIRKS,
    )
    rules: Sampling = RULES
    repeats: int = 10
    wording: Mapping[str, str] = field(default_factory=lambda: dict(WORDING))
    scores: tuple[str, ...] = ("accuracy",)
    derived: Mapping[str, Callable[[Mapping[str, float]], float]] = field(default_factory=dict)
    shots: int = 0

    def judge_requests(self, on: frozenset[str]) -> int:
        return int(JUDGE_DECIDES.name in on)

    def read(self, record: Record) -> Item:
        return problem_item(record)

    def arranged(self, items: Sequence[Item]) -> list[Item]:
        return with_repetitions(items)

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        prompt = conversation(self.wording, filled(self.wording["question"], question=item.question))
        return Continue(prompt=prompt, rules=self.rules, repeats=self.repeats)

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        found = [found_result(one.text, on) for one in responses]
        if JUDGE_DECIDES.name in on:
            return _judged(responses, found, self.wording, on, tools)
        return verified(responses, found, tools)


def _judged(
    responses: Sequence[TaskResponse],
    found: Sequence[FoundResult | None],
    wording: Mapping[str, str],
    on: frozenset[str],
    tools: GradingTools,
) -> list[Grade]:
    """Grades by the judge."""
    asked = [place for place, one in enumerate(found) if one is not None or JUDGE_ASKED_ABOUT_NOTHING.name in on]
    pairs = [(responses[place].item.name, responses[place].item.key.result, _text(found[place])) for place in asked]
    said = dict(zip(asked, judged_equal(pairs, wording, on, tools), strict=True)) if pairs else {}
    grades = []
    for place, (response, one) in enumerate(zip(responses, found, strict=True)):
        equal, note = said.get(place, (False, ""))
        grades.append(
            Grade(
                scores={"accuracy": float(equal is True)},
                extracted="" if one is None else one.text,
                problem=without_answer(response) if one is None else "judge failed" if equal is None else "",
                note=f"judge: {note}" if note else "",
            )
        )
    return grades


def _text(found: FoundResult | None) -> str:
    return "None" if found is None else found.text


def verified(
    responses: Sequence[TaskResponse], found: Sequence[FoundResult | None], tools: GradingTools
) -> list[Grade]:
    """Grades by the two verifiers of `megaphi/grading`."""
    present = [(response, one) for response, one in zip(responses, found, strict=True) if one is not None]
    verdicts = iter(
        tools.grader.grade(
            [
                (Question(name=response.item.name, prompt="", key=MathAnswer(response.item.key.result)), one.graded)
                for response, one in present
            ]
        )
    )
    grades = []
    for response, one in zip(responses, found, strict=True):
        if one is None:
            grades.append(Grade(scores={"accuracy": 0.0}, problem=without_answer(response)))
            continue
        verdict = next(verdicts)
        grades.append(
            Grade(
                scores={"accuracy": float(verdict.is_right)},
                extracted=one.text,
                problem="undecided" if verdict.outcome == "undecided" else "",
                note=verdict.reason,
            )
        )
    return grades


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkedProblemTask(QuestionTask):
    """Problems for base models, after worked examples; the stated result is verified."""

    name: str = "math_base"
    about: str = "MATH for base models, 4-shot with worked solutions (hendrycks/competition_math)"
    columns: tuple[str, ...] = (PROBLEM, "answer|Answer|solution")
    rules: Sampling = BASE_RULES
    wording: Mapping[str, str] = field(default_factory=lambda: dict(BASE_WORDING))
    scores: tuple[str, ...] = ("accuracy",)
    shots: int = 4

    def read(self, record: Record) -> Item:
        return problem_item(record)

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        worked = chosen_shots(self.name, self.shots, item, shots, same_group=False)
        unsolved = [one.name for one in worked if not one.key.solution]
        if unsolved:
            raise InputError(f"{self.name}: the worked example {unsolved[0]!r} has no column 'solution'")
        parts = [self.wording["opening"]]
        parts += [f"{self._question(one)} {one.key.solution}\n\n" for one in worked]
        return Continue(prompt="".join(parts) + self._question(item), rules=self.rules)

    def _question(self, item: Item) -> str:
        return filled(self.wording["question"], question=item.question)

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        return verified(responses, [found_result(one.text, frozenset()) for one in responses], tools)


TASKS = (ProblemTask(), WorkedProblemTask())
