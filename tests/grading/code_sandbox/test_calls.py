"""A function called through pipes behaves as the function itself, as far as plain data goes. No process is started."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from megaphi.grading.code_sandbox.inside import candidate, checker
from megaphi.grading.code_sandbox.inside.calls import BrokenTests, CandidateFailed, CandidateFunction
from megaphi.grading.code_sandbox.inside.channel import Late, PipeChannel, TooLong

LONGEST = 10_000


@contextmanager
def served(source: str, name: str = "f") -> Iterator[CandidateFunction]:
    """The function of a candidate that is served by a thread of this process."""
    payload, calls, replies = os.pipe(), os.pipe(), os.pipe()
    channels = PipeChannel(payload[0], -1, longest=1 << 20), PipeChannel(calls[0], replies[1], longest=LONGEST)

    def serve() -> None:
        candidate.serve(*channels)
        os.close(replies[1])

    thread = threading.Thread(target=serve)
    thread.start()
    PipeChannel(-1, payload[1], longest=0).send({"source": source})
    yield CandidateFunction(PipeChannel(replies[0], calls[1], longest=LONGEST), name)
    os.close(calls[1])
    thread.join()
    for pipe in (*payload, calls[0], replies[0]):
        os.close(pipe)


@contextmanager
def function(source: str) -> Iterator[CandidateFunction]:
    with served(source) as found:
        found.load()
        yield found


def test_arguments_by_place_and_by_name_and_values_with_their_types() -> None:
    with function("def f(*a, **k): return (a, k)") as f:
        assert f(1, "é\ud800", (2, None), b={3}) == ((1, "é\ud800", (2, None)), {"b": {3}})
        assert f.calls == 1


@pytest.mark.parametrize(
    ("source", "before", "after"),
    [
        ("def f(a): a.sort()", [3, 1, 2], [1, 2, 3]),
        ("def f(a): a.clear()", {1: 2}, {}),
        ("def f(a): a.add(2)", {1}, {1, 2}),
        ("def f(a): a[0].append(1)", [[]], [[1]]),
        ("def f(a):\n a.append(1)\n raise KeyError(a)", [], [1]),
    ],
)
def test_what_the_candidate_changes_in_an_argument_is_changed_here(source: str, before: Any, after: Any) -> None:
    with function(source) as f:
        with suppress(KeyError):
            f(before)
        assert before == after


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        ("ValueError('no')", ValueError, "no"),
        ("type('Own', (KeyError,), {})('no')", KeyError, "'no'"),
        ("UnicodeDecodeError('a', b'', 0, 1, 'no')", UnicodeError, "no"),
        ("type('Own', (Exception,), {})()", Exception, ""),
    ],
)
def test_an_exception_arrives_as_the_nearest_one_of_python(raised: str, kind: type[Exception], text: str) -> None:
    with function(f"def f(): raise {raised}") as f:
        with pytest.raises(kind) as caught:
            f()
        assert type(caught.value) is kind
        assert text in str(caught.value)
        assert f.last_raised is caught.value
        assert f.fault is None


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("raise SystemExit(0)", "it raised SystemExit: 0"),
        ("return object()", "of type object, which is not plain data"),
        ("return 'x' * 20_000", "larger than 10,000 bytes"),
        ("a.append(object())", "in an argument: of type object"),
    ],
)
def test_a_candidate_that_failed_stays_failed(body: str, fault: str) -> None:
    with function(f"def f(a): {body}") as f:
        for _ in range(2):
            with pytest.raises(CandidateFailed, match=fault):
                f([])
        assert f.calls == 1


def test_tests_that_pass_a_function_fail_by_themselves() -> None:
    with function("def f(g): return g(1)") as f:
        with pytest.raises(BrokenTests, match="the tests pass an argument of type function"):
            f(lambda number: number)
        assert f.fault is None


def test_a_candidate_that_does_not_load_says_why() -> None:
    with served("import no_such_module") as f, pytest.raises(ImportError, match="no_such_module"):
        f.load()


def reply_with(write: Callable[[int], object]) -> CandidateFunction:
    """A function whose candidate does nothing but `write` to its pipe."""
    calls, replies = os.pipe(), os.pipe()
    write(replies[1])
    os.close(replies[1])
    return CandidateFunction(PipeChannel(replies[0], calls[1], longest=LONGEST), "f")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the program ended"),
        (b"\x02\0\0\0", "the program ended"),
        (b"\xff\xff\xff\xff", "too long: 4,294,967,295 bytes"),
        (b"\x02\0\0\0{{", "not JSON"),
        (b"\x02\0\0\0[]", "no answer"),
        (b"\x02\0\0\0{}", "of no form"),
        (b'\x13\0\0\0{"value": ["list"]}', "not in the form"),
        (b'\x1f\0\0\0{"value":["set",[["list",[]]]]} ', "a set that cannot be read"),
        (b'\x1f\0\0\0{"value": 1, "arguments": [1]}  ', "not in the form"),
        (b'\x26\0\0\0{"value": 1, "arguments": ["list",[]]}', "other arguments"),
        (b'\x0e\0\0\0{"raised": 17}', "nothing known"),
        (b'\x17\0\0\0{"raised": ["NoSuch"]}  ', "it raised NoSuch"),
        (b'\x13\0\0\0{"raised": ["int"]}', "it raised int"),
    ],
)
def test_a_reply_of_any_other_form_is_a_fault(content: bytes, fault: str) -> None:
    with pytest.raises(CandidateFailed, match=fault):
        reply_with(lambda pipe: os.write(pipe, content))(1)


def test_waiting_ends_with_the_deadline_and_no_long_message_is_read() -> None:
    read, write = os.pipe()
    channel = PipeChannel(read, -1, longest=5, deadline=0.0)
    with pytest.raises(Late):
        channel.receive()
    os.write(write, b"\x06\0\0\0123456")
    with pytest.raises(TooLong):
        channel.receive()


def verdict(tests: str, source: str = "def f(n): return n * n", prelude: str = "") -> tuple[str, str]:
    """The checker's own verdict, without processes."""
    with served(source) as f:
        return checker._verdict({"prelude": prelude, "tests": tests}, f)


@pytest.mark.parametrize(
    ("tests", "outcome", "reason"),
    [
        ("assert f(2) == 4", "right", "after 1 calls"),
        ("def check(g):\n assert g(2) == 4\n assert g(3) == 9", "right", "after 2 calls"),
        ("from math import *\nassert f(2) == pow(2, 2)", "right", ""),
        ("assert f(2) == 5, 'two'", "wrong", "line 1 of the tests: AssertionError: two"),
        ("try:\n f('a')\n assert False\nexcept TypeError: pass", "right", ""),
        ("f('a')", "wrong", "it raised TypeError"),
        ("len(f(2))", "wrong", "line 1 of the tests: TypeError"),
        ("try:\n f(object)\nexcept BaseException: pass", "undecided", "the tests pass an argument"),
        ("def check(g): pass", "undecided", "the tests never call f"),
        ("def check(g): assert", "undecided", "failed by themselves: SyntaxError"),
        ("f(2)\nno_such_name", "undecided", "line 2 of the tests failed by themselves: NameError"),
        ("f(2)\nimport no_such_module", "undecided", "ModuleNotFoundError"),
        ("raise ValueError", "undecided", "failed by themselves"),
    ],
)
def test_the_checker_knows_whose_fault_it_is(tests: str, outcome: str, reason: str) -> None:
    found, said = verdict(tests)
    assert (found, reason in said) == (outcome, True), said


def test_a_fault_that_the_tests_swallow_still_counts() -> None:
    tests = "try:\n f(2)\nexcept BaseException: pass"
    assert verdict(tests, "def f(n): raise SystemExit(0)") == ("wrong", "it raised SystemExit: 0")


def test_the_tests_use_helpers_of_the_question_and_not_those_of_the_answer() -> None:
    helper = "def twice(n): return 2 * n"
    lying = "def twice(n): return 7\ndef f(n): return 7"
    assert verdict("assert f(2) == twice(2)", lying, helper)[0] == "wrong"
    assert verdict("assert f(2) == twice(2)", f"{helper}\ndef f(n): return twice(n)", helper)[0] == "right"
