"""The update against Megatron's own: the same bits, and no question to the device, where its has one per tensor."""

from __future__ import annotations

import pytest

from megaphi.parallel.layout import ParallelLayout
from tests.engine.model.optimizer_runs import updates
from tests.gloo_world import run_in_world


@pytest.mark.parametrize("limit", [0.0, 0.5, 1e9])
@pytest.mark.parametrize(
    "layout", [ParallelLayout(), ParallelLayout(tensor=2, sequence_parallel=True), ParallelLayout(pipeline=2)], ids=str
)
def test_an_update_has_the_bits_of_megatrons_and_asks_the_device_nothing(layout: ParallelLayout, limit: float) -> None:
    for ours, megatrons in run_in_world(updates, layout, limit, processes=layout.model_ranks):
        assert ours[:3] == megatrons
        assert ours[3] == 0
