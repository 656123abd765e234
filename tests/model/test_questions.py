"""Training asks the device nothing in a micro-batch: every size and place is decided on the host."""

from __future__ import annotations

from typing import Any

from megaphi.parallel.layout import ParallelLayout
from tests.gloo_world import run_in_new_world
from tests.model.question_runs import trained

CASES: list[tuple[ParallelLayout, bool, dict[str, Any]]] = [
    (ParallelLayout(data=1), False, {}),
    (ParallelLayout(data=1), True, {"loss_chunk_tokens": 16}),
    (ParallelLayout(data=1, tensor=2, context=2), False, {}),
    (ParallelLayout(data=1, tensor=2, context=2), True, {}),
]


def all_cases() -> list[list[str]]:
    return [trained(*case) for case in CASES]


def test_no_micro_batch_asks_the_device() -> None:
    (found,) = run_in_new_world(all_cases, processes=1)
    for answers in found:
        assert "answered" not in answers
