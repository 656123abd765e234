"""Checks of form: each rule on answers that keep to it and that break it, and checks that are none."""

from __future__ import annotations

from typing import Any

import pytest

from megaphi.errors import InputError
from megaphi.evaluation.tasks.guided.checks import LONGEST, keeps, read_check


@pytest.mark.parametrize(
    ("check", "kept", "broken"),
    [
        ({"rule": "words", "min": 2, "max": 3}, ["one two", " one\ntwo - 3 "], ["one", "a b c d", ""]),
        ({"rule": "words", "max": 1}, ["", "well-known"], ["well known"]),
        ({"rule": "lines", "min": 2, "max": 2}, ["a\n\nb", "a\nb\n"], ["a", "a\nb\nc"]),
        ({"rule": "words_in_each_line", "min": 2}, ["a b\n\nc d e"], ["a b\nc"]),
        ({"rule": "matches", "pattern": r"(?i)\bcat\b", "min": 1, "max": 2}, ["Cat, cat"], ["cats", "cat cat cat"]),
        ({"rule": "matches", "pattern": "[eE]", "max": 0}, ["odd"], ["even", "E"]),
        ({"rule": "each_line", "pattern": r"\d+;?"}, ["1;\n2"], ["1;\nx", "", "1 2"]),
        ({"rule": "whole", "pattern": "a.*z"}, ["a\nz", " az "], ["xaz", "azx"]),
        (
            {"rule": "json", "keys": ["a", "b"]},
            ['{"a": 1, "b": [2]}', ' {"a":1,"b":2}\n'],
            ['{"b": 1, "a": 2}', '{"a": 1}', '{"a": 1, "b": 2, "c": 3}', '```\n{"a": 1, "b": 2}\n```', "[1]", "{"],
        ),
        ({"rule": "json", "keys": ["a"]}, ['{"a": 1}'], ['{"a": NaN}', "[" * 5_000]),
        ({"rule": "ascending", "pattern": r"^\| (\w+)"}, ["| ab\n| B\n| c"], ["| b\n| a", "| a", ""]),
    ],
)
def test_a_rule_tells_answers_apart(check: dict[str, Any], kept: list[str], broken: list[str]) -> None:
    assert read_check(check) == check
    assert [keeps(check, text) for text in kept] == [True] * len(kept)
    assert [keeps(check, text) for text in broken] == [False] * len(broken)


def test_an_answer_without_end_breaks_every_rule() -> None:
    assert keeps({"rule": "words", "min": 1}, "a " * (LONGEST // 2))
    assert not keeps({"rule": "words", "min": 1}, "a" * (LONGEST + 1))


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("words", "an object with a 'rule'"),
        ({"min": 3}, "an object with a 'rule'"),
        ({"rule": "word", "min": 1}, "no rule 'word'"),
        ({"rule": "words"}, "takes min, max, not none"),
        ({"rule": "words", "least": 3}, "takes min, max, not least"),
        ({"rule": "words", "min": -1}, "must be a whole number"),
        ({"rule": "words", "min": True}, "must be a whole number"),
        ({"rule": "matches", "min": 1}, "takes pattern, min, max"),
        ({"rule": "whole", "pattern": "("}, "no regular expression"),
        ({"rule": "whole", "pattern": 3}, "no regular expression"),
        ({"rule": "ascending", "pattern": "a"}, "one group"),
        ({"rule": "json", "keys": "a"}, "list of texts"),
    ],
)
def test_a_wrong_check_is_named(check: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_check(check)
    assert said in str(caught.value)
