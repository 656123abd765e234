"""The grader as a caller uses it: pairs of known verdict, disputes, and workers that hang, die or are attacked."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megaphi.errors import InputError
from megaphi.grading.grader import Grader
from megaphi.grading.math_answer.verifiers import VerifierProcess
from megaphi.grading.question import Choices, ExactAnswers, MathAnswer, Question
from tests.grading.math_answer.pairs import BY_CONVENTION, DIFFERENT, EQUAL, pairs


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(processes=1, cpu_seconds=3) as opened:
        yield opened


def mathematics(key: str) -> Question:
    return Question(name=key[:20], prompt="?", key=MathAnswer(key))


def outcomes(grader: Grader, table: str) -> dict[tuple[str, str], str]:
    items = pairs(table)
    verdicts = grader.grade([(mathematics(key), f"So it is \\boxed{{{answer}}}.") for key, answer in items])
    return {item: verdict.outcome for item, verdict in zip(items, verdicts, strict=True)}


NOT_SEEN_BY_MATH_VERIFY = {
    ("i^2", "-1"),
    ("(1+i)^2", "2i"),
    ("\\frac{1}{i}", "-i"),
    ("\\text{12 hours}", "12"),
    ("\\mathrm{e}^2", "e^2"),
    ("\\operatorname{sin} x", "\\sin(x)"),
    ("\\sqrt[3]{1-\\sqrt{2}}", "-\\sqrt[3]{\\sqrt{2}-1}"),
    ("\\emptyset", "\\varnothing"),
}


def test_equal_answers_are_right_but_where_math_verify_does_not_see_it(grader: Grader) -> None:
    found = outcomes(grader, EQUAL)
    assert set(found.values()) <= {"right", "undecided"}
    assert {pair for pair, outcome in found.items() if outcome == "undecided"} <= NOT_SEEN_BY_MATH_VERIFY


def test_different_answers_are_wrong(grader: Grader) -> None:
    found = outcomes(grader, DIFFERENT)
    assert set(found.values()) == {"wrong"}


def test_what_depends_on_a_convention_is_never_right_and_is_written_out(grader: Grader, tmp_path: Path) -> None:
    before = len(grader.disputes)
    found = outcomes(grader, BY_CONVENTION)
    assert "right" not in found.values()
    undecided = [pair for pair, outcome in found.items() if outcome == "undecided"]
    assert len(undecided) >= 10
    assert [(one.key, one.answer) for one in grader.disputes[before:]] == undecided
    grader.write_disputes(tmp_path / "disputes.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "disputes.jsonl").read_text().splitlines()]
    third = next(line for line in lines if line["key"] == "\\frac13")
    assert third["answer"] == "0.333333"
    assert (third["exact"], third["sympy"]) == ("different", "equal")


def test_kinds_of_keys_in_one_batch(grader: Grader) -> None:
    choice = Question(name="c", prompt="?", key=Choices(("no", "yes"), 1))
    exact = Question(name="e", prompt="?", key=ExactAnswers(("Ada Lovelace",)))
    items = [
        (choice, "Answer: B"),
        (mathematics("3"), "#### 3"),
        (exact, "ada lovelace"),
        (choice, "A"),
        (exact, "Bob"),
    ]
    verdicts = grader.grade([*items, (mathematics("\\frac12"), "The answer is 0.5."), (mathematics("3"), "Well.\nHm.")])
    assert [one.outcome for one in verdicts] == ["right", "right", "right", "wrong", "wrong", "right", "wrong"]
    assert verdicts[-1].reason == "it states no result"
    assert grader.grade([]) == []


def test_the_last_number_counts_only_if_it_is_declared(grader: Grader) -> None:
    text = "There are 3 of them, and 4 more, so that in the end we have 7 of them."
    assert grader.grade([(mathematics("7"), text)])[0].outcome == "wrong"
    with Grader(last_number=True) as lenient:
        verdict = lenient.grade([(mathematics("7"), text)])[0]
    assert verdict.outcome == "right"
    assert "last number" in verdict.reason


HOSTILE = [
    "9**9**9**9",
    "9^{9^{9^{9}}}",
    "9" * 10_000_000,
    "{" * 100_000,
    "\\frac{1}{" * 200,
    "__import__('os').system('touch {path}')",
    "().__class__.__base__.__subclasses__()",
    "\\text{__import__('os').system('touch {path}')}",
    "(1000000!)!",
    "\ud800\x00\\boxed",
]


def test_hostile_answers_are_not_right_end_in_time_and_touch_nothing(tmp_path: Path) -> None:
    path = tmp_path / "touched"
    texts = [text.replace("{path}", str(path)) for text in HOSTILE]
    began = time.monotonic()
    with Grader(processes=1, cpu_seconds=1) as grader:
        verdicts = grader.grade([(mathematics("\\sqrt{2}"), f"\\boxed{{{text}}}") for text in texts])
        assert grader.grade([(mathematics("\\sqrt{2}"), "\\boxed{\\sqrt 2}")])[0].outcome == "right"
    assert {one.outcome for one in verdicts} <= {"wrong", "undecided"}
    assert time.monotonic() - began < 120
    assert not path.exists()
    assert any("processor time" in one.reason for one in verdicts)


def test_a_worker_that_dies_costs_its_own_pair_only() -> None:
    worker = VerifierProcess(cpu_seconds=20, memory_megabytes=1024)
    try:
        assert worker.compare("\\frac12", "0.5").exact.finding == "equal"
        assert worker._process is not None
        process = worker._process.pid
        limits = Path(f"/proc/{process}/limits").read_text()
        assert re.search(rf"Max address space +{1 << 30} +{1 << 30} ", limits)
        assert re.search(r"Max file size +0 +0 ", limits)
        assert re.search(r"Max processes +0 +0 ", limits)
        assert Path(f"/proc/{process}/environ").read_text() == "PYTHONHASHSEED=0\0"
        killer = threading.Timer(0.3, os.kill, (process, signal.SIGSEGV))
        killer.start()
        findings = worker.compare("\\sum_{n=1}^{10^{7}} \\sin(n)", "\\prod_{n=1}^{10^{7}} \\cos(n)")
        assert findings.sympy.reason == "it died of SIGSEGV"
        assert findings.exact.finding == "unreadable key"
        assert worker.compare("\\frac12", "0.25").exact.finding == "different"
        assert worker._process.pid != process
    finally:
        worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_mistakes_of_a_caller_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ({"processes": 0}, {"cpu_seconds": 0}, {"memory_megabytes": 10}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Grader(**wrong)
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with Grader() as grader, pytest.raises(InputError, match=r"pip install 'megaphi\[grading\]'"):
        grader.grade([(mathematics("x+1"), "\\boxed{1+x}")])
