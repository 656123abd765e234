"""Residual additions are made within the norms after them: one by itself remains in a chunk of layers.

That they add the right tensors is what the golden curve shows (tests/engine/test_golden_curve.py), on one chunk and on
several, recomputed and not.
"""

from __future__ import annotations

import pytest

from tests.engine.layout_runs import TINY
from tests.gloo_world import run_in_world
from tests.model.addition_runs import additions


@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_a_chunk_of_layers_adds_once_by_itself(recompute: str) -> None:
    assert run_in_world(additions, recompute, processes=1) == [(1, 2 * TINY.layers - 1)]


def test_recomputed_layers_hand_on_one_tensor() -> None:
    """Two would double what full recomputation keeps."""
    assert run_in_world(additions, "full", processes=1) == [(2 * TINY.layers, 2 * TINY.layers)]
