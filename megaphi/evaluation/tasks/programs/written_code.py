"""The program of a response as it was meant, whichever way it was written.

A block that defines the function counts (`program_in`). Small models often go on from the head of the function that the
prompt ends with, and close a block that was never opened: then what stands before the first fence counts.
"""

from __future__ import annotations

import re

from megaphi.evaluation.tasks.programs.passes import is_program
from megaphi.grading.code_sandbox.answer_program import program_in
from megaphi.grading.code_sandbox.test_cases import whole_program
from megaphi.grading.question import CodeTests

FENCE = re.compile(r"^[ ]{0,3}(?:```|~~~)", re.MULTILINE)


def written_code(text: str, tests: CodeTests) -> str:
    """The program, or the part of one that continues the prompt."""
    code, fence = program_in(text, tests.entry_point), FENCE.search(text)
    if fence is None or _defines(code, tests.entry_point):
        return code
    before = text[: fence.start()]
    goes_on = before.strip() and before.lstrip("\n")[0] in " \t"
    if (goes_on or _defines(before, tests.entry_point)) and is_program(whole_program(tests, before)):
        return before
    return code


def _defines(code: str, name: str) -> bool:
    return bool(re.search(rf"^(?:async\s+def|def|class)\s+{name}\b|^{name}\s*=", code, re.MULTILINE))
