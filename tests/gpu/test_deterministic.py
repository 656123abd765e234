"""`deterministic=true` on a GPU: a run in bf16 that is stopped and continued has the uninterrupted one's bits.

Its price is measured by `benchmarks/mfu.py --sides deterministic`. Not yet run on a GPU.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from megaphi.engine.run_config import NumericPrecision
from tests.engine.layout_runs import tiny_run, train
from tests.gloo_world import run_on_gpu

pytestmark = pytest.mark.gpu


def stopped_and_straight(folder: str) -> list[dict[str, Any]]:
    """Losses, norms and the digest of the weights of four steps: continued after two, and in one go."""
    run = tiny_run(deterministic=True, precision=NumericPrecision(parameters="bfloat16"), folder=folder)
    straight, first = train(run, steps=4), train(run, steps=2, save=True)
    second = train(run, steps=2, load=folder)
    stopped = {name: first[name] + second[name] for name in ("losses", "norms")} | {"weights": second["weights"]}
    return [stopped, {name: straight[name] for name in stopped}]


def test_a_continued_run_has_the_uninterrupted_ones_bits(tmp_path: Path) -> None:
    stopped, straight = run_on_gpu(partial(stopped_and_straight, str(tmp_path)))
    assert stopped == straight
