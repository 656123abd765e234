"""A checkpoint continues a run bit for bit in new processes; other layouts are the matter of test_reshard_matrix.py.

Ten steps in one go must equal five, a save, a new set of processes, a load, and five more: every loss, every gradient
norm, and the digest of every rank's weights.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from megaphi.engine.run_config import NumericPrecision
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import TINY, tiny_run, train
from tests.gloo_world import run_in_world

BF16 = {"precision": NumericPrecision(parameters="bfloat16")}
CASES = {
    "data 2 in bf16": ({"data": 2}, BF16),
    "pipeline 2 x data 2, virtual 2": ({"pipeline": 2, "data": 2, "virtual_pipeline": 2}, {}),
}


def go(layout: dict[str, Any], fields: dict[str, Any], *, folder: str = "unused", **how: Any) -> list[dict[str, Any]]:
    run = tiny_run(layout=ParallelLayout(**layout), folder=folder, **fields)
    ranks = run.layout.model_ranks * (run.layout.data or 1)
    return run_in_world(partial(train, run, **how), processes=ranks)


@pytest.mark.parametrize("name", CASES)
def test_resuming_is_bit_exact(name: str, tmp_path: Path) -> None:
    layout, fields = CASES[name]
    whole = go(layout, fields, steps=10)
    first = go(layout, fields, folder=str(tmp_path), steps=5, save=True)
    second = go(layout, fields, load=str(tmp_path), steps=5)
    for straight, before, after in zip(whole, first, second, strict=True):
        assert before["losses"] + after["losses"] == straight["losses"]
        assert before["norms"] + after["norms"] == straight["norms"]
        assert after["weights"] == straight["weights"]


@pytest.mark.parametrize("name", CASES)
def test_saving_and_validating_in_between_disturbs_nothing(name: str, tmp_path: Path) -> None:
    """With several replicas, where gradients are reduced and weights gathered while the model computes."""
    layout, fields = CASES[name]
    alone = go(layout, fields, steps=6)
    paused = go(layout, fields, folder=str(tmp_path), steps=6, pause_after=3)
    for one, other in zip(alone, paused, strict=True):
        assert one == other


def test_a_deterministic_run_trains_and_resumes_to_the_bit(tmp_path: Path) -> None:
    """With torch's deterministic algorithms, which refuse every operation that has none; the numbers stay the same."""
    fields = {"deterministic": True, "model": replace(TINY, loss_chunk_tokens=24)}
    usual = go({"tensor": 2}, fields | {"deterministic": False}, steps=4)
    whole = go({"tensor": 2}, fields, steps=4)
    first = go({"tensor": 2}, fields, folder=str(tmp_path), steps=2, save=True)
    second = go({"tensor": 2}, fields, load=str(tmp_path), steps=2)
    assert whole[0]["losses"] == first[0]["losses"] + second[0]["losses"] == usual[0]["losses"]
    assert [rank["weights"] for rank in second] == [rank["weights"] for rank in whole]
