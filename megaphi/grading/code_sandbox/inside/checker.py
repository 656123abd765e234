"""The clean process that runs a benchmark's own tests, unchanged, against a candidate that lives in another process.

The tests see a function that behaves as the candidate's (`calls.py`) and plain data only, so that no `__eq__`, patched
builtin or exit of the candidate can reach an assertion. The verdict is one message with the nonce that came with the
tests; silence, an exit code or a message without it is no verdict. Tests that never call the candidate, that do not
parse, or that fail by themselves (a name that is not there) decide nothing.
"""

from __future__ import annotations

import traceback
import types
from typing import Any

from megaphi.grading.code_sandbox.inside.calls import BrokenTests, CandidateFailed, CandidateFunction
from megaphi.grading.code_sandbox.inside.channel import PipeChannel

TESTS_FILE = "tests.py"
LONGEST_REASON = 300


def check(payload: PipeChannel, calls: PipeChannel) -> None:
    """Receive the tests, run them, send the verdict."""
    job = payload.receive()
    function = CandidateFunction(calls, job["entry_point"])
    outcome, reason = _verdict(job, function)
    payload.send(
        {"nonce": job["nonce"], "outcome": outcome, "reason": reason[:LONGEST_REASON], "calls": function.calls}
    )


def _verdict(job: dict[str, Any], function: CandidateFunction) -> tuple[str, str]:
    module = types.ModuleType("tests")
    try:
        function.load()
        exec(compile(job["prelude"], "prelude.py", "exec"), module.__dict__)
        module.__dict__[function.__name__] = function
        exec(compile(job["tests"], TESTS_FILE, "exec"), module.__dict__)
        if callable(vars(module).get("check")):
            module.__dict__["check"](function)
    except BaseException as error:
        return _failure(error, function)
    if function.fault or function.fault_of_tests:
        return ("wrong", function.fault) if function.fault else ("undecided", str(function.fault_of_tests))
    if not function.calls:
        return "undecided", f"the tests never call {function.__name__}"
    return "right", f"all assertions hold, after {function.calls} calls"


def _failure(error: BaseException, function: CandidateFunction) -> tuple[str, str]:
    """(outcome, reason) of tests that ended in an exception: the candidate's fault, or their own."""
    if function.fault or isinstance(error, CandidateFailed):
        return "wrong", function.fault or str(error)
    if function.fault_of_tests or isinstance(error, BrokenTests):
        return "undecided", function.fault_of_tests or str(error)
    said = f"{type(error).__name__}: {error}".removesuffix(": ")
    if error is function.last_raised:
        return "wrong", f"it raised {said}"
    where = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == TESTS_FILE]
    place = f"line {where[-1].lineno} of the tests" if where else "the tests"
    if not function.calls or isinstance(error, NameError | ImportError | SyntaxError):
        return "undecided", f"{place} failed by themselves: {said}"
    return "wrong", f"{place}: {said}"
