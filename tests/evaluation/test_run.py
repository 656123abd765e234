"""From responses to results: why there is no answer, and what a quirk is worth, with its interval."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megaphi.evaluation.data_files import TaskFiles
from megaphi.evaluation.report.comparison import compare
from megaphi.evaluation.run import AnsweredTask, graded, result_of
from megaphi.evaluation.task import PHI4, GradingTools, TaskResponse, switches_on
from megaphi.evaluation.tasks import find_task
from megaphi.evaluation.tasks.mathematics.number_reading import LAST_NUMBER
from megaphi.grading.grader import Grader
from megaphi.sampling import Finish
from tests.evaluation.made_evaluations import evaluation


@pytest.mark.parametrize(
    ("text", "finish", "refused", "problem"),
    [
        ("I have no idea.", "stop", "", "no answer extracted"),
        ("I have no idea, but let me", "length", "", "truncated"),
        ("Answer: 3", "length", "", ""),
        ("", "stop", "the prompt does not fit", "not answered"),
    ],
)
def test_why_there_is_no_answer(text: str, finish: Finish, refused: str, problem: str) -> None:
    task = find_task("gsm8k")
    item = task.read({"question": "One and two?", "answer": "1+2=3 #### 3"})
    asked = task.ask(item, [], frozenset())
    response = TaskResponse(item=item, asked=asked, text=text, finish=finish, refused=refused)
    with Grader(processes=1) as grader:
        (grade,) = graded(task, [response], frozenset(), GradingTools(grader=grader))
    assert grade.problem == problem
    assert grade.scores["accuracy"] == (0.0 if problem else 1.0)


def test_a_quirk_is_worth_what_two_evaluations_differ_by() -> None:
    """Twelve problems in four clusters, two answers each; of the two numbers of an answer mostly the last is right."""
    task = find_task("gsm8k")
    item = task.read({"question": "One and two?", "answer": "1+2=3 #### 3"})
    items = [replace(item, name=f"q{number}", cluster=f"page {number // 3}") for number in range(12)]
    responses = [
        TaskResponse(
            item=one,
            asked=task.ask(one, [], frozenset()),
            repeat=repeat,
            text="Answer: 3\n4" if number < 3 + repeat else "Answer: 5\n3",
        )
        for number, one in enumerate(items)
        for repeat in range(2)
    ]
    on = switches_on(task, PHI4, {})
    with Grader(processes=1) as grader:
        tools = GradingTools(grader=grader)
        with_it, without = (
            result_of(
                AnsweredTask(task=task, on=these, files=TaskFiles(), items_in_files=len(items), responses=responses),
                tools,
            )
            for these in (on, on - {LAST_NUMBER.name})
        )
    pair = {"off": evaluation(without), "on": evaluation(with_it)}
    (compared,) = compare(pair, allowed=["switches"])
    difference = compared.paired.difference
    assert difference.low < 0 < difference.estimate
    for result in (with_it, without):
        assert result.quirks[LAST_NUMBER.name] == pytest.approx(100 * difference.estimate)
        ends = (100 * difference.low, 100 * difference.high)
        assert result.quirk_intervals[LAST_NUMBER.name] == pytest.approx(ends)
    assert set(with_it.quirk_intervals) == set(with_it.quirks)
