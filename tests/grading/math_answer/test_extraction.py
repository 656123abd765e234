r"""The result that a text states: nested braces, several boxes, sentences, and hostile texts in time that is linear."""

from __future__ import annotations

import time

import pytest

from megaphi.grading.math_answer.extraction import last_boxed, stated_result

STATED = [
    (r"so $x = \boxed{\frac{1}{\sqrt{2}}}$.", r"\frac{1}{\sqrt{2}}", "in a box"),
    (r"First \boxed{3}, no: it is \boxed{4}.", "4", "in a box"),
    (r"The roots are $\boxed{1}$ and $\boxed{2}$.", "1, 2", "in a box"),
    (r"\boxed{\text{a \boxed{b} c}}", r"\text{a \boxed{b} c}", "in a box"),
    (r"\boxed{5} and then \boxed{unfinished", "5", "in a box"),
    (r"\boxed 7 is it", "7", "in a box"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}", "in a box"),
    ("stray } and { but $\\boxed{8}$ }", "8", "in a box"),
    (r"The answer is 4. Therefore $\fbox{5}$", "5", "in a box"),
    ("She has 3+4=7 apples.\n#### 7\n", "7", "behind ####"),
    ("#### 7\nNo.\n#### 1,008", "1,008", "behind ####"),
    ("Well, the answer is 3.5. That was easy.", "3.5", "behind 'the answer is'"),
    ("The answer is 4. Wait. The final answer is: $\\frac{1}{2}$.", "$\\frac{1}{2}$", "behind 'the answer is'"),
    ("Think.\n**Answer:** 12 apples\nBye.", "12 apples", "behind 'the answer is'"),
    ("Think.\nAnswer: $x^2 + 1$", "$x^2 + 1$", "behind 'the answer is'"),
    ("The answer is 42! I hope that this helps.", "42", "behind 'the answer is'"),
    ("The answer is 42!", "42", "behind 'the answer is'"),
    ("The answer is $4! + 1$.", "$4! + 1$", "behind 'the answer is'"),
    ("The answer is 12, because 3 times 4 is 12.", "12", "behind 'the answer is'"),
    ("So the answer is approximately 3.14", "3.14", "behind 'the answer is'"),
    ("42", "42", "as the whole text"),
    (" $\\frac{3}{4}$ ", "$\\frac{3}{4}$", "as the whole text"),
    ("Monday", "Monday", "as the whole text"),
]


@pytest.mark.parametrize(("text", "result", "form"), STATED)
def test_the_result_that_is_stated(text: str, result: str, form: str) -> None:
    found = stated_result(text, last_number=False)
    assert found is not None
    assert (found.text, found.form) == (result, form)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("We add 3 and 4 and so we get 7.", "7"),
        ("In the end she pays $1,250.50 for all of it", "$1,250.50"),
        ("Out of all of them it is 3/4 that remain", "3/4"),
        ("It would fall to −12 degrees in the night", "−12"),
    ],
)
def test_the_last_number_counts_only_where_a_caller_asks_for_it(text: str, number: str) -> None:
    assert stated_result(text, last_number=False) is None
    found = stated_result(text, last_number=True)
    assert found is not None
    assert (found.text, found.form) == (number, "as the last number")


@pytest.mark.parametrize(
    "text", ["", "   ", "I am not sure what this question wants from me at all.", r"\boxed{", r"\boxed{}"]
)
def test_a_text_that_states_nothing(text: str) -> None:
    found = stated_result(text, last_number=True)
    assert found is None or found.form == "as the whole text"


@pytest.mark.parametrize(
    "piece",
    ["\\boxed{", "{", "}", "\\boxed ", "answer is ", "answer:\n", "answer" + " " * 50, "9", ". ", ".*", "#### ", "\\"],
)
def test_hostile_repetition_takes_linear_time(piece: str) -> None:
    text = piece * (400_000 // len(piece))
    began = time.process_time()
    stated_result(text, last_number=True)
    last_boxed(text)
    assert time.process_time() - began < 3
