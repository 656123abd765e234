"""The tests of a question in the form in which they are run: a program of assertions, or pairs of input and output.

Pairs are a JSON list, the same for every language: `{"arguments": […], "value": …}` calls the entry point,
`{"stdin": "…", "stdout": "…"}` runs the whole program. Everything else is a program of Python. An answer that only
continues the prefix of its question is put behind it.
"""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from typing import Any

from megaphi.errors import InputError
from megaphi.grading.question import CodeTests
from megaphi.json_text import parse_json

CLOSE = 1e-9
"""Two floats that differ by no more than this part of the larger one are the same result."""


@dataclass(frozen=True, slots=True)
class CallPair:
    """Arguments of a call, and the value that it must return."""

    arguments: list[Any]
    value: Any


@dataclass(frozen=True, slots=True)
class TextPair:
    """A text on standard input, and the text that must come out on standard output."""

    stdin: str
    stdout: str


def read_pairs(tests: CodeTests) -> list[CallPair] | list[TextPair] | None:
    """The pairs of a question, or None if its tests are a program.

    Raises:
        InputError: a list of objects that are not pairs, or pairs of both kinds.
    """
    if not tests.tests.lstrip().startswith("[") or "{" not in tests.tests:
        return None
    try:
        listed = parse_json(tests.tests, constants=False)
    except InputError:
        return None
    pairs = [_read_pair(record, number) for number, record in enumerate(listed, start=1)]
    calls = [pair for pair in pairs if isinstance(pair, CallPair)]
    texts = [pair for pair in pairs if isinstance(pair, TextPair)]
    if calls and texts:
        raise InputError("some tests have 'arguments' and some 'stdin': give all of them one form")
    return calls or texts


def checked_tests(tests: CodeTests) -> CodeTests:
    """The same tests, if they can be run at all: what is wrong with them is said before an answer is sampled.

    Raises:
        InputError: no pairs and no program of Python, or a program that never names the entry point.
    """
    pairs = read_pairs(tests)
    if pairs and isinstance(pairs[0], CallPair) and (tests.language != "python" or not tests.entry_point):
        raise InputError("pairs of 'arguments' and 'value' need language python and an entry point")
    if pairs:
        return tests
    if tests.language != "python":
        raise InputError(f"tests of programs in {tests.language} are pairs of 'stdin' and 'stdout'")
    if problem := _syntax_error(tests.tests):
        raise InputError(f"the tests are no program of Python: {problem}")
    if not {tests.entry_point, "check"} & set(re.findall(r"\w+", tests.tests)):
        raise InputError(f"the tests neither define check nor call {tests.entry_point}")
    return tests


def _syntax_error(program: str) -> str:
    try:
        ast.parse(program)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return str(error) or type(error).__name__
    return ""


def _read_pair(record: Any, number: int) -> CallPair | TextPair:
    if isinstance(record, dict):
        if set(record) == {"arguments", "value"} and isinstance(record["arguments"], list):
            return CallPair(record["arguments"], record["value"])
        if set(record) == {"stdin", "stdout"} and all(isinstance(text, str) for text in record.values()):
            return TextPair(record["stdin"], record["stdout"])
    raise InputError(f"test {number} is not {{'arguments': [...], 'value': ...}} or {{'stdin': ..., 'stdout': ...}}")


def whole_program(tests: CodeTests, answer: str) -> str:
    """The answer behind its prefix, or alone if it is a program and the prefix only the beginning of one."""
    if tests.entry_point not in _names(answer):  # it continues the prefix, or it is no program at all
        return tests.prefix + answer
    return f"{tests.prefix}\n{answer}" if _parse(tests.prefix) else answer


def prelude(tests: CodeTests) -> str:
    """The part of the question that assertions may use: its prefix, if that is a program. Nothing of the answer."""
    for program in (tests.prefix, f"{tests.prefix}\n    pass\n"):
        if _parse(program):
            return program
    return ""


def _names(program: str) -> set[str]:
    """Functions, classes and variables that a program defines at its outermost level."""
    tree = _parse(program)
    nodes = tree.body if tree else []
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    targets = [target for node in nodes if isinstance(node, ast.Assign) for target in node.targets]
    return defined | {target.id for target in targets if isinstance(target, ast.Name)}


def _parse(program: str) -> ast.Module | None:
    try:
        return ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # hostile text: a NUL byte, brackets without end
        return None


def same_value(expected: Any, found: Any) -> bool:
    """Compare a value of JSON with plain data that a program returned; a tuple counts as a list, JSON has no other."""
    if isinstance(expected, bool) or expected is None or isinstance(expected, str):
        return type(found) is type(expected) and found == expected
    if isinstance(expected, int | float):
        if type(found) not in (int, float):
            return False
        return expected == found or (float in (type(expected), type(found)) and _close(expected, found))
    if isinstance(expected, list):
        if type(found) not in (list, tuple) or len(found) != len(expected):
            return False
        return all(map(same_value, expected, found))
    if type(found) is not dict or found.keys() != expected.keys():
        return False
    return all(same_value(value, found[key]) for key, value in expected.items())


def _close(expected: float, found: float) -> bool:
    try:
        return math.isclose(expected, found, rel_tol=CLOSE)
    except OverflowError:  # an integer beyond every float
        return False


def same_text(expected: str, found: str) -> bool:
    """Compare outputs but for spaces at the ends of lines and empty lines at the end."""
    return _lines(expected) == _lines(found)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
