"""Delayed scales of FP8 remember every pass: a promise that they break is refused, and not with another kind of fp8."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megaphi.engine.guard.settings import Guard
from megaphi.engine.run_config import NumericPrecision, RunConfig, check
from megaphi.engine.run_sections import EvaluationPasses
from megaphi.errors import InputError
from tests.engine.layout_runs import TINY, tiny_run


def fp8_run(kind: Any, **fields: Any) -> RunConfig:
    precision = NumericPrecision(parameters="bfloat16", fp8=kind)
    return tiny_run(precision=precision, model=replace(TINY, kernels="transformer_engine"), **fields)


@pytest.mark.parametrize(
    ("fields", "what", "reason"),
    [
        (
            {"evaluation": EvaluationPasses(every=5, tasks=("exam_base",), data="tasks")},
            "evaluation.every",
            "evaluating would change the training",
        ),
        ({"guard": Guard(skip_steps=("57",))}, "guard.skip_steps", "a step that the other run computed and left out"),
        ({"deterministic": True}, "deterministic=true", "a resumed run begins without"),
    ],
    ids=["evaluation", "replay", "deterministic"],
)
def test_what_scales_that_remember_cannot_keep_is_refused(fields: dict[str, Any], what: str, reason: str) -> None:
    check(fp8_run("tensorwise", **fields), world_size=1)
    with pytest.raises(InputError, match=rf"^{what} is not available with precision\.fp8=delayed: .*{reason}"):
        check(fp8_run("delayed", **fields), world_size=1)


def test_the_guard_itself_is_not() -> None:
    assert check(fp8_run("delayed"), world_size=1).guard.action == "roll_back"
