"""Programs against their tests, and pass@k: the chance that one of k answers to a task passes.

Estimated without bias from n >= k answers of which c pass (Chen et al. 2021, "Evaluating Large Language Models Trained
on Code", equation 1); the estimate of a task is a score of each of its answers, so that the mean over answers is the
mean over tasks.
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from megaphi.evaluation.task import Choose, Grade, GradingTools, Problem, TaskResponse
from megaphi.evaluation.tasks.quirks import without_answer
from megaphi.evaluation.tasks.unjudged import UnjudgedTask
from megaphi.grading.code_sandbox.test_cases import whole_program
from megaphi.grading.question import CodeTests, Question
from megaphi.grading.verdict import Verdict


def pass_at_k(answers: int, passed: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k), with n answers of which c passed.

    Raises:
        ValueError: fewer answers than k, from which nothing can be said about k.
    """
    if not 0 <= passed <= answers or not 1 <= k <= answers:
        raise ValueError(f"pass@{k} of {answers} answers of which {passed} passed")
    return 1 - math.comb(answers - passed, k) / math.comb(answers, k)


def score_names(repeats: int) -> tuple[str, ...]:
    """Names of the scores of a task that is asked `repeats` times: `pass@1`, and larger k as far as they go."""
    return tuple(f"pass@{k}" for k in (1, 2, 5, 10, 100) if k <= repeats)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramTask(UnjudgedTask):
    """A task whose answers are programs, which run in the sandbox."""

    repeats: int

    @property
    def scores(self) -> tuple[str, ...]:
        return score_names(self.repeats)


def grade_programs(
    responses: Sequence[TaskResponse],
    programs: Sequence[tuple[CodeTests, str]],
    tools: GradingTools,
    *,
    names: Sequence[str],
) -> list[Grade]:
    """Run each response's program against its tests.

    An item's answers that do not come here, because the sampler refused the prompt, count as answers that failed.
    """
    questions = [
        (Question(name=response.item.name, prompt=response.item.question, key=tests), fenced(program))
        for response, (tests, program) in zip(responses, programs, strict=True)
    ]
    verdicts = tools.grader.grade(questions)
    passed = Counter(
        response.item.name for response, verdict in zip(responses, verdicts, strict=True) if verdict.is_right
    )
    given = Counter(response.item.name for response in responses)
    grades = []
    for response, (tests, program), verdict in zip(responses, programs, verdicts, strict=True):
        name = response.item.name
        answers = max(given[name], 1 if isinstance(response.asked, Choose) else response.asked.repeats)
        scores = {"pass@1": float(verdict.is_right)}
        for score in names[1:]:
            k = int(score.removeprefix("pass@"))
            scores[score] = pass_at_k(max(answers, k), passed[name], k)
        problem = _problem(response, tests, program, verdict)
        grades.append(Grade(scores=scores, extracted=program, problem=problem, note=verdict.reason))
    return grades


def fenced(program: str) -> str:
    """The program as the one block of an answer, behind a fence longer than any in it, so that all of it is run."""
    longest = max((len(run) for run in re.findall(r"`+", program)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}python\n{program}\n{ticks}\n"


def _problem(response: TaskResponse, tests: CodeTests, program: str, verdict: Verdict) -> Problem:
    """The reason why a response is no program at all; "" for one that is a program, right or wrong."""
    if verdict.outcome == "undecided":
        return "undecided"
    if verdict.is_right or is_program(whole_program(tests, program)):
        return ""
    return without_answer(response)


def is_program(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # hostile text: a NUL byte, brackets without end
        return False
    return True
