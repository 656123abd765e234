"""Programs go through the one grader like all other answers; without isolation they are refused."""

from __future__ import annotations

import pytest

from megaphi.errors import InputError
from megaphi.grading.code_sandbox import isolation
from megaphi.grading.grader import Grader
from megaphi.grading.question import Choices, CodeTests, Question
from tests.grading.code_sandbox.machine import needs_isolation

pytestmark = pytest.mark.slow
SQUARES = Question(
    name="squares",
    prompt="Square a number.",
    key=CodeTests(language="python", tests="assert square(3) == 9\nassert square(4) == 16", entry_point="square"),
)
OPTIONS = Question(name="options", prompt="?", key=Choices(("yes", "no"), 0))
FENCED = "It is n times n:\n```python\ndef square(n):\n    return n * n\n```\nFor 3 that is 9."


@needs_isolation
def test_a_batch_of_programs_and_others_keeps_its_order() -> None:
    items = [(SQUARES, FENCED), (OPTIONS, "A"), (SQUARES, FENCED.replace("n * n", "9")), (OPTIONS, "B")]
    with Grader(processes=1) as grader:
        for _ in range(2):
            outcomes = [verdict.outcome for verdict in grader.grade(items)]
            assert outcomes == ["right", "right", "wrong", "wrong"]


def test_without_isolation_programs_are_refused_and_the_rest_is_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation.shutil, "which", lambda _: None)
    with Grader(processes=1) as grader:
        assert grader.grade([(OPTIONS, "A")])[0].outcome == "right"
        with pytest.raises(InputError, match="no isolation for programs of strangers"):
            grader.grade([(SQUARES, FENCED)])
    with Grader(processes=1, unsafe=True) as grader:
        assert grader.grade([(SQUARES, FENCED)])[0].outcome == "right"
