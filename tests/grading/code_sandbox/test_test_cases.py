"""Pairs are read or refused by name, answers put behind their prefix, values and texts compared as they should be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from megaphi.errors import InputError
from megaphi.grading.code_sandbox.test_cases import (
    CallPair,
    TextPair,
    prelude,
    read_pairs,
    same_text,
    same_value,
    whole_program,
)
from megaphi.grading.question import CodeTests


def key(tests: Any = "assert f(1)", prefix: str = "") -> CodeTests:
    text = tests if isinstance(tests, str) else json.dumps(tests)
    return CodeTests(language="python", tests=text, entry_point="f", prefix=prefix)


def test_both_kinds_of_pairs_are_read_and_a_program_is_none() -> None:
    assert read_pairs(key([{"arguments": [1, [2]], "value": None}])) == [CallPair([1, [2]], None)]
    assert read_pairs(key([{"stdin": "1\n", "stdout": "2"}])) == [TextPair("1\n", "2")]
    assert read_pairs(key("def check(f):\n    assert f({})")) is None
    assert read_pairs(key("[f(x) for x in {1}]")) is None


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ([{"arguments": [1], "value": 1}, {"stdin": "", "stdout": ""}], "some tests have 'arguments' and some 'stdin'"),
        ([{"arguments": [1], "value": 1}, {"arguments": 1, "value": 1}], "test 2 is not"),
        ([{"input": 1, "output": 1}], "test 1 is not"),
        ([{"stdin": 1, "stdout": "1"}], "test 1 is not"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_number(tests: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_pairs(key(tests))


WHOLE = "import math\ndef f(n):\n    return math.pi\n"
HEAD = "import math\ndef f(n):\n"
DOCUMENTED = 'import math\ndef f(n):\n    """Pi."""\n'


@pytest.mark.parametrize("prefix", [HEAD, DOCUMENTED])
@pytest.mark.parametrize("answer", ["    return math.pi\n", WHOLE])
def test_an_answer_continues_its_prefix_or_stands_for_itself(prefix: str, answer: str) -> None:
    names: dict[str, Any] = {}
    exec(whole_program(key(prefix=prefix), answer), names)
    assert round(names["f"](0), 2) == 3.14


def test_an_answer_that_is_no_program_becomes_none() -> None:
    assert whole_program(key(), "\0(((") == "\0((("


@pytest.mark.parametrize(("prefix", "has_helper"), [(HEAD, True), (DOCUMENTED, True), ("def f(:", False), ("", True)])
def test_the_tests_may_use_the_prefix_if_it_is_a_program(prefix: str, has_helper: bool) -> None:
    assert (prelude(key(prefix=prefix)) != "" or not prefix) == has_helper
    compile(prelude(key(prefix=prefix)), "prefix", "exec")


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        (1, 1, True),
        (1, True, False),
        (True, 1, False),
        (1, 1.0, True),
        (0.3, 0.1 + 0.2, True),
        (0.3, 0.3001, False),
        (1.5, 10**400, False),
        (10**400, 10**400, True),
        (1, float("nan"), False),
        (None, None, True),
        ("1", 1, False),
        ("a", b"a", False),
        ([1, [2]], (1, (2,)), True),
        ([1], {1}, False),
        ([1], [1, 1], False),
        ({"a": [1]}, {"a": (1.0,)}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"1": 1}, {1: 1}, False),
        ({}, [], False),
    ],
)
def test_values_are_compared_by_type_and_value(expected: Any, found: Any, same: bool) -> None:
    assert same_value(expected, found) is same


def test_texts_are_compared_but_for_spaces_where_nobody_sees_them() -> None:
    assert same_text("1 2\n3", "1 2  \r\n3\n\n")
    assert not same_text("1 2", "1  2")
    assert not same_text("\n1", "1")
