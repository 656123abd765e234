"""The planned bytes of every pipeline stage against those that a real training step holds at its peak."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import pytest

from megaphi.data.batch import BatchShape
from megaphi.engine.run_config import NumericPrecision
from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout
from megaphi.planning.memory import RankMemory, rank_memory
from tests.engine.layout_runs import TINY, tiny_run
from tests.gloo_world import run_in_world
from tests.planning.memory_runs import measured_bytes

MODEL = dataclasses.replace(TINY, layers=4, hidden=96, feed_forward=256, vocabulary=512, head_size=16)
TOKENS = 2 * 128
LAYOUTS = [
    ParallelLayout(data=1),
    ParallelLayout(data=1, tensor=2),
    ParallelLayout(data=1, tensor=2, sequence_parallel=True),
    ParallelLayout(data=1, context=2),
    ParallelLayout(data=2),
    ParallelLayout(data=1, pipeline=4),
    ParallelLayout(data=1, pipeline=2, virtual_pipeline=2),
]


def planned_and_measured(
    layout: ParallelLayout, model: Architecture = MODEL, **fields: Any
) -> list[tuple[RankMemory, dict[str, int]]]:
    """For each pipeline stage its plan, and the mean of what its ranks hold (replicas share unevenly)."""
    batch = BatchShape(sequence_length=128, global_batch=8 * (layout.data or 1), micro_batch=2)
    run = tiny_run(layout=layout, model=model, batch=batch, **fields)
    ranks = run_in_world(partial(measured_bytes, run), processes=layout.world_size)
    stages = [[rank for rank in ranks if rank["stage"] == stage] for stage in range(layout.pipeline)]
    means = [{name: sum(rank[name] for rank in stage) // len(stage) for name in stage[0]} for stage in stages]
    return list(zip(rank_memory(run, [mean["parameters"] for mean in means]), means, strict=True))


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_training_step_holds_what_was_planned(layout, recompute):
    for plan, measured in planned_and_measured(layout, recompute=recompute):
        assert (plan.weights, plan.gradients) == (measured["weights"], measured["gradients"])
        assert plan.optimizer == pytest.approx(measured["optimizer"], abs=16)
        assert plan.activations == pytest.approx(measured["activations"], rel=0.05)


@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[2], LAYOUTS[5]], ids=str)
def test_reference_layers_hold_what_was_planned(layout):
    for plan, measured in planned_and_measured(layout, dataclasses.replace(MODEL, kernels="reference")):
        assert plan.activations == pytest.approx(measured["activations"], rel=0.05)


@pytest.mark.parametrize(
    ("layout", "computed_by"),
    [
        (LAYOUTS[1], {"attention": "softmax"}),
        (LAYOUTS[0], {"attention": "softmax", "kernels": "reference"}),
        (LAYOUTS[0], {"loss_chunk_tokens": 32}),
        (LAYOUTS[2], {"loss_chunk_tokens": 32}),
        (LAYOUTS[1], {"vocabulary": 385}),
    ],
    ids=str,
)
def test_other_ways_to_compute_it_hold_what_was_planned(layout, computed_by):
    """Autograd's ledger sees all of the chunked loss but the chunk of logits that exists for a moment.

    A vocabulary of 385 is padded to 512.
    """
    for plan, measured in planned_and_measured(layout, dataclasses.replace(MODEL, **computed_by)):
        chunk = computed_by.get("loss_chunk_tokens", 0) * MODEL.vocabulary * 4 // layout.tensor
        assert plan.activations == pytest.approx(measured["activations"] + chunk, rel=0.05)


@pytest.mark.parametrize("kernels", ["fused", "reference"])
@pytest.mark.parametrize("layout", [LAYOUTS[2], LAYOUTS[5]], ids=str)
def test_bfloat16_halves_weights_and_most_activations(layout, kernels):
    model = dataclasses.replace(MODEL, kernels=kernels)
    stages = planned_and_measured(layout, model, precision=NumericPrecision(parameters="bfloat16"))
    for plan, measured in stages:
        assert (plan.weights, plan.gradients) == (measured["weights"], measured["gradients"])
        assert plan.optimizer == pytest.approx(measured["optimizer"], abs=16)
        # Besides what autograd holds there are, for a moment, the logits as they were computed (not if fused).
        is_last = (plan, measured) == stages[-1]
        logits = 2 * TOKENS * MODEL.vocabulary // layout.tensor if is_last and kernels == "reference" else 0
        assert plan.activations == pytest.approx(measured["activations"] + logits, rel=0.05)
