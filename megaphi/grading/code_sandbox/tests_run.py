"""One answer against the tests of its question, in the boxes of one worker.

A program of tests runs in a process of its own that never loads the answer (`inside/checker.py`); pairs are compared
here. Both ask the answer's process over pipes. The verdict is `wrong` for what the answer did, `undecided` for what the
tests or the box did.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from megaphi.grading.code_sandbox.box import BoxFailed, Ended, PartRequest, Pipes, WorkerBoxes, channel
from megaphi.grading.code_sandbox.inside.calls import ENDED, CandidateFailed, CandidateFunction
from megaphi.grading.code_sandbox.inside.channel import Closed, Late, TooLong
from megaphi.grading.code_sandbox.inside.plain_data import NotPlain
from megaphi.grading.code_sandbox.languages import Language
from megaphi.grading.code_sandbox.limits import Limits
from megaphi.grading.code_sandbox.test_cases import CallPair, TextPair, same_text, same_value
from megaphi.grading.verdict import Verdict, right, undecided, wrong

GRACE_SECONDS = 10.0
"""After the limit of wall time, until which the fork server has ended the answer and the tests have noticed."""
SHOWN = 80
Drive = Callable[[CandidateFunction], Verdict]


def run_assertions(
    boxes: WorkerBoxes, limits: Limits, *, source: str, prelude: str, tests: str, entry_point: str
) -> Verdict:
    """Run a program of tests against the function `entry_point` of `source`."""
    nonce = secrets.token_hex(16)
    job = {"entry_point": entry_point, "prelude": prelude, "tests": tests, "nonce": nonce}
    with Pipes() as pipes:
        for_answer, for_tests, verdict, calls, replies = (pipes.new() for _ in range(5))
        answer_ends = (for_answer[0], calls[0], replies[1])
        tests_ends = (for_tests[0], verdict[1], replies[0], calls[1])
        patient = replace(limits, wall_seconds=limits.wall_seconds + GRACE_SECONDS / 2)
        boxes.start([PartRequest("candidate", answer_ends, limits), PartRequest("checker", tests_ends, patient)])
        pipes.close(*answer_ends, *tests_ends)
        deadline = time.monotonic() + limits.wall_seconds + GRACE_SECONDS
        try:
            channel(-1, for_answer[1], limits, deadline=deadline).send({"source": source})
            asked = channel(verdict[0], for_tests[1], limits, deadline=deadline)
            asked.send(job)
            message = asked.receive()
        except (Closed, Late, TooLong, NotPlain):
            message = None
        answer, checker = boxes.finish()
    if not (answer.confined and checker.confined):
        raise BoxFailed(f"a process was not confined: {boxes.messages()}")
    if type(message) is not dict or message.get("nonce") != nonce:
        return undecided(f"the tests gave no verdict: {checker.said(limits)}")
    if message["outcome"] == "wrong" and message["reason"] == ENDED:
        return wrong(answer.said(limits))
    return Verdict(message["outcome"], message["reason"])


def run_calls(boxes: WorkerBoxes, limits: Limits, *, source: str, entry_point: str, pairs: list[CallPair]) -> Verdict:
    """Call the function `entry_point` of `source` with the arguments of each pair, and compare here."""

    def drive(function: CandidateFunction) -> Verdict:
        for number, pair in enumerate(pairs, start=1):
            found = function(*pair.arguments)
            if not same_value(pair.value, found):
                return wrong(f"call {number} returns {_shown(found)} instead of {_shown(pair.value)}")
        return right(f"all {len(pairs)} calls return what they must")

    return ask(boxes, limits, {"source": source}, "candidate", entry_point, drive)


def run_program(
    boxes: WorkerBoxes, limits: Limits, language: Language, *, source: str, pairs: list[TextPair]
) -> Verdict:
    """Run the whole program once per pair, and compare what it writes here."""

    def drive(function: CandidateFunction) -> Verdict:
        for number, pair in enumerate(pairs, start=1):
            found = function(pair.stdin)
            if type(found) is not str or not same_text(pair.stdout, found):
                return wrong(f"input {number}: the output is {_shown(found)} instead of {_shown(pair.stdout)}")
        return right(f"all {len(pairs)} outputs are right")

    job = {"source": source, "file": language.file, "compile": language.compile, "run": language.run}
    limits = replace(limits, address_bytes=max(limits.address_bytes, language.address_bytes))
    return ask(boxes, limits, job, "program", language.name, drive)


def ask(boxes: WorkerBoxes, limits: Limits, job: dict[str, Any], kind: Any, name: str, drive: Drive) -> Verdict:
    """Start one process with its job and let `drive` question it; whatever the process does wrong is `wrong`."""
    with Pipes() as pipes:
        payload, calls, replies = pipes.new(), pipes.new(), pipes.new()
        ends = (payload[0], calls[0], replies[1])
        boxes.start([PartRequest(kind, ends, limits)])
        pipes.close(*ends)
        deadline = time.monotonic() + limits.wall_seconds + GRACE_SECONDS
        function = CandidateFunction(channel(replies[0], calls[1], limits, deadline=deadline), name)
        try:
            channel(-1, payload[1], limits, deadline=deadline).send(job)
            function.load()
            verdict = drive(function)
        except CandidateFailed as error:
            verdict = wrong(str(error))
        except Closed:
            verdict = wrong(ENDED)
        except Late:
            verdict = None
        except Exception as error:
            if error is not function.last_raised:
                raise
            verdict = wrong(f"it raised {type(error).__name__}: {error}".removesuffix(": "))
        (ended,) = boxes.finish()
    return _judged(verdict, ended, boxes, limits)


def _judged(verdict: Verdict | None, ended: Ended, boxes: WorkerBoxes, limits: Limits) -> Verdict:
    if not ended.confined:
        raise BoxFailed(f"a process was not confined: {boxes.messages()}")
    if verdict is None:
        raise BoxFailed("a process outlived its limit of time")
    return wrong(ended.said(limits)) if verdict.reason == ENDED else verdict


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of too many digits
        return "a value that is too long to show"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
