"""Code is kept if its tests were run: the solution passes all of them, and no trivial stub does.

Solution and tests were written from the task alone, so that a misunderstanding of one is seldom that of the other. The
stubs return a constant or an argument; tests that one of them passes test nothing.
"""

from __future__ import annotations

import ast

from megaphi.curation.synthesize.forms.work import Tools, Work, open_works
from megaphi.errors import InputError
from megaphi.grading.code_sandbox.test_cases import checked_tests
from megaphi.grading.question import CodeTests

FEWEST_ASSERTIONS = 3
STUBS = ("None", "0", "1", '""', "[]", "True", "False", "(arguments or [None])[0]", "(arguments or [None])[-1]")
"""Expressions of Python, one for each stub, which returns its value."""


def check_executed(works: list[Work], tools: Tools) -> None:
    """Run solution and stubs against the tests of every work."""
    tests = {id(work): found for work in works if (found := _tests(work)) is not None}
    left = open_works(works)
    _run_solutions([(work, tests[id(work)]) for work in left], tools)
    _run_stubs([(work, tests[id(work)]) for work in open_works(left)], tools)
    for work in open_works(left):
        found = tests[id(work)]
        work.keeps["tests"] = {"language": "python", "tests": found.tests, "entry_point": found.entry_point}


def _tests(work: Work) -> CodeTests | None:
    function = work.data["function"]
    try:
        tests = checked_tests(CodeTests(language="python", tests=work.data["tests"], entry_point=function))
    except InputError as error:
        work.reject("bad_tests", str(error))
        return None
    count = sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(tests.tests)))
    work.found["assertions"] = count
    if count < FEWEST_ASSERTIONS:
        work.reject("bad_tests", f"{count} assertions, fewer than {FEWEST_ASSERTIONS}")
        return None
    return tests


def _run_solutions(items: list[tuple[Work, CodeTests]], tools: Tools) -> None:
    if not items:
        return
    verdicts = tools.sandbox.grade([(tests, work.data["code"]) for work, tests in items])
    for (work, _), verdict in zip(items, verdicts, strict=True):
        if verdict.outcome == "undecided":
            work.reject("not_run", verdict.reason)
        elif not verdict.is_right:
            work.reject("tests_fail", verdict.reason)


def _run_stubs(items: list[tuple[Work, CodeTests]], tools: Tools) -> None:
    if not items:
        return
    programs = [(tests, stub(tests.entry_point, value)) for _, tests in items for value in STUBS]
    verdicts = tools.sandbox.grade(programs)
    for place, (work, _) in enumerate(items):
        own = verdicts[place * len(STUBS) : (place + 1) * len(STUBS)]
        passing = [value for value, verdict in zip(STUBS, own, strict=True) if verdict.is_right]
        if passing:
            work.reject("weak_tests", f"a function that returns {passing[0]} passes them")


def stub(function: str, value: str) -> str:
    """A program whose function returns `value` whatever it is given."""
    return f"def {function}(*arguments, **named):\n    return {value}\n"
