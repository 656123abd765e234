"""From responses to results: a missing answer of a response that was cut off is missing because of that."""

from __future__ import annotations

import pytest

from megaphi.evaluation.run import graded
from megaphi.evaluation.task import GradingTools, TaskResponse
from megaphi.evaluation.tasks import find_task
from megaphi.grading.grader import Grader
from megaphi.sampling import Finish


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
