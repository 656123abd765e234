"""The program is found in the answer, whatever stands around it."""

from __future__ import annotations

import pytest

from megaphi.grading.code_sandbox.answer_program import program_in

F = "def f(n):\n    return n\n"


@pytest.mark.parametrize(
    "answer",
    [
        F,
        f"```python\n{F}```",
        f"Sure:\n\n```py\n{F}```\nIt is linear, `f(1)` is 1.",
        f"~~~\n{F}~~~\n",
        f"```python\n{F}",
        f"```python\n{F}```\nTry it:\n```python\nprint(f(1))\n```\n",
        f"First\n```\ndef f(n): return 0\n```\nno, better\n```\n{F}```",
        f"```bash\npip install x\n```\n```python\n{F}```",
        f"```python\r\n{F}```".replace("\n", "\r\n"),
        f"````python\n{F}````",
    ],
)
def test_the_block_that_defines_the_function_counts(answer: str) -> None:
    assert program_in(answer, "f") == F


def test_without_a_function_the_last_block_counts() -> None:
    assert program_in("```c\nint a;\n```\n```c\nint main() {}\n```", "") == "int main() {}\n"
    assert program_in("```python\n    return n\n```", "f") == "    return n\n"


def test_a_fence_within_a_text_of_the_program_does_not_end_it() -> None:
    program = 'def f(n):\n    return "```" + n\n'
    assert program_in(f"```python\n{program}```", "f") == program


def test_a_long_answer_of_fences_takes_no_more_than_linear_time() -> None:
    assert program_in("```\n" * 20_000 + "~~~\n" * 20_000, "f") is not None
