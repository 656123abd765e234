"""Code that is run, instructions for given code, and missing parts: what is kept, and each way of being rejected."""

from __future__ import annotations

from typing import Any

import pytest

from megaphi.curation.synthesize.forms.executed import STUBS, stub
from tests.curation.synthesize.chains import GOOD, SCORED, TASK, reasons, says
from tests.curation.synthesize.scripted import code_seed

# Code


TASK_OF_CODE = {
    "task": "Count the vowels.",
    "function": "count_vowels",
    "signature": "def count_vowels(text: str) -> int:",
}
SOLUTION = "Here:\n```python\ndef count_vowels(text):\n    return sum(one in 'aeiou' for one in text)\n```"
TESTS = """```python
assert count_vowels('') == 0
assert count_vowels('tree') == 2
assert count_vowels('xyz') == 0
assert count_vowels('idea') == 3
```"""
WEAK = "assert count_vowels('b') == 0\nassert count_vowels('') == 0\nassert not count_vowels('')"


@pytest.mark.parametrize(
    ("task", "solution", "tests", "reason"),
    [
        ({}, SOLUTION, TESTS, None),
        ({}, SOLUTION.replace("aeiou", "aei"), TESTS.replace("'idea') == 3", "'ou') == 2"), "tests_fail"),
        ({}, "I cannot do that.", TESTS, "tests_fail"),
        ({}, SOLUTION, TESTS.replace("assert", "assert not", 1), "tests_fail"),
        ({}, SOLUTION, "```python\nassert count_vowels('') == 0\n```", "bad_tests"),
        ({}, SOLUTION, "They should all pass (trust me).", "bad_tests"),
        ({}, SOLUTION, "assert 1\nassert 2\nassert 3", "bad_tests"),
        ({}, SOLUTION, WEAK, "weak_tests"),
        ({}, " ", TESTS, "empty"),
        ({"function": "def count_vowels"}, SOLUTION, TESTS, None),
        ({"function": "def count_vowels(text):"}, SOLUTION, TESTS, None),
        ({"function": "no name"}, SOLUTION, TESTS, "unreadable"),
        ({"function": "def vowels(text):"}, SOLUTION, TESTS, "unreadable"),
        ({"function": "name", "signature": "def name(first: int) -> bool:"}, SOLUTION, TESTS, "unreadable"),
        ({"signature": "count_vowels(text)"}, SOLUTION, TESTS, "unreadable"),
    ],
)  # fmt: skip
def test_code_is_kept_if_its_tests_pass_and_no_stub_passes_them(
    run: Any, task: dict[str, str], solution: str, tests: str, reason: str | None
) -> None:
    (work,) = run("code_from_theory", says({TASK: TASK_OF_CODE | task, SCORED: GOOD}, [solution, tests]))
    assert reasons([work]) == [reason]
    if reason is None:
        assert work.keeps["tests"]["entry_point"] == "count_vowels"
        assert work.found["assertions"] == 4
        assert work.messages is not None
        assert "return sum(one in 'aeiou'" in work.messages[1]["content"]
        assert "assert count_vowels('idea') == 3" in work.text


def test_stubs_are_programs_that_return_one_thing() -> None:
    found = []
    for value in STUBS:
        names: dict[str, Any] = {}
        exec(stub("f", value), names)
        found.append(names["f"](7, 8))
        names["f"]()
        names["f"](x=1)
    assert found == [None, 0, 1, "", [], True, False, 7, 8]


# Instructions for given code


CODE = "def double(number):\n    result = number + number\n    return result\n"
AGAIN = "```python\ndef double(number):\n    total = number + number\n    return total\n```"
ELSE = "```python\nimport os\nprint([x for x in os.listdir('.') if x.endswith('.py')])\n```"


@pytest.mark.parametrize(
    ("texts", "score", "reason"),
    [
        (["Write double(number), twice a number.", AGAIN], 4, None),
        (["Write double(number), twice a number.", AGAIN], 3, "unfaithful"),
        (["Write double(number), twice a number.", ELSE], 5, "unfaithful"),
        (["Write it with `result = number + number` in it.", AGAIN], 5, "given_away"),
        ([" ", AGAIN], 5, "empty"),
        (["Write double(number).", " "], 5, "empty"),
    ],
)
def test_an_instruction_is_kept_if_the_code_written_from_it_is_alike(
    run: Any, texts: list[str], score: int, reason: str | None
) -> None:
    say = says({SCORED: {"findings": "x", "score": score}}, texts)
    (work,) = run("reversed_specification", say, code_seed(CODE))
    assert reasons([work]) == [reason]
    if reason is None:
        assert work.messages is not None
        assert work.messages[0]["content"] == texts[0]
        assert CODE.strip() in work.messages[1]["content"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("def double_of_a(number_or_text):", None),
        ("from operator import mul, floordiv", None),
        ("result = number_or_text + number_or_text", "given_away"),
    ],
)
def test_an_instruction_may_say_the_head_of_the_function(run: Any, line: str, reason: str | None) -> None:
    code = f"from operator import mul, floordiv\n{CODE.replace('double(number)', 'double_of_a(number_or_text)')}"
    code = code.replace("number + number", "number_or_text + number_or_text")
    say = says({SCORED: {"findings": "x", "score": 5}}, [f"Write `{line}`, twice of it.", code])
    assert reasons(run("reversed_specification", say, code_seed(code))) == [reason]


@pytest.mark.parametrize(
    ("tests", "again", "reason"),
    [
        ("assert double(2) == 4", "```python\ndef double(x):\n    return 2 * x\n```", None),
        ("assert double(2) == 4", "```python\ndef double(x):\n    return x ** 3\n```", "unfaithful"),
        ("assert double(2) == 5", AGAIN, "seed_fails_tests"),
        ("assert triple(2) ==", AGAIN, "bad_tests"),
        ("", AGAIN, "bad_tests"),
    ],
)
def test_given_tests_decide_about_the_code_written_again(run: Any, tests: str, again: str, reason: str | None) -> None:
    document = code_seed(CODE, tests={"tests": tests, "entry_point": "double"})
    (work,) = run("reversed_user_story", says({}, ["Please write double.", again]), document)
    assert reasons([work]) == [reason]
    if reason is None:
        assert work.found == {"tests": "right"}
        assert work.keeps["tests"]["entry_point"] == "double"


def test_tests_that_are_no_object_are_bad(run: Any) -> None:
    document = code_seed(CODE, tests=["assert double(2) == 4"])
    assert reasons(run("reversed_user_story", says({}, ["Please.", AGAIN]), document)) == ["bad_tests"]


# Fill in the middle


def test_the_middle_is_the_seeds_own_text(run: Any) -> None:
    page = "First we heat it.\n\nThen the metal melts at nine hundred degrees or so.\n\nLast we pour it."
    say = says({}, "Say what happens next, with the temperature.")
    (work,) = run("middle_paragraph", say, page, words=(3, 500))
    assert reasons([work]) == [None]
    middle = "Then the metal melts at nine hundred degrees or so."
    assert work.messages is not None
    assert work.messages[1]["content"] == middle
    assert work.messages[0]["content"].endswith("First we heat it.\n\n[...]\n\nLast we pour it.")
    parts = work.keeps["fill_in_the_middle"]
    assert parts["prefix"] + parts["middle"] + parts["suffix"] == page
    assert page[slice(*work.found["span"])] == middle


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("Write: Then the metal melts at nine hundred degrees or so.", "given_away"),
        ("Say that then the metal melts at nine hundred degrees.", "given_away"),
        ("Say what the metal does.", None),
        ("", "empty"),
    ],
)
def test_an_instruction_does_not_give_the_middle_away(run: Any, instruction: str, reason: str | None) -> None:
    page = "First we heat it.\n\nThen the metal melts at nine hundred degrees or so.\n\nLast we pour it."
    assert reasons(run("middle_paragraph", says({}, instruction), page, words=(3, 500))) == [reason]


def test_a_text_with_fewer_spans_than_works_says_so(run: Any) -> None:
    page = "One.\n\nA paragraph that is long enough.\n\nTwo.\n\nAnother paragraph that is long enough.\n\nThree."
    works = run("middle_paragraph", says({}, "Write it."), page, count=3, words=(3, 500))
    assert reasons(works) == [None, None, "no_span"]
    assert {work.data["middle"][:3] for work in works[:2]} == {"A p", "Ano"}
