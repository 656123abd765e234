"""The planned bytes of a rank against those that a real training step holds."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest

from megaphi.engine.run_config import BatchShape, NumericPrecision, RunConfig
from megaphi.parallel.layout import ParallelLayout
from megaphi.planning.memory import RankMemory, rank_memory
from tests.engine.layout_runs import TINY, tiny_run
from tests.gloo_world import run_in_world
from tests.planning.memory_runs import measured_bytes

MODEL = dataclasses.replace(TINY, layers=3, hidden=96, feed_forward=256, vocabulary=512, head_size=16)
LAYOUTS = {
    "one process": ParallelLayout(data=1),
    "tensor 2, sequence parallel": ParallelLayout(tensor=2, data=1, sequence_parallel=True),
    "data 2": ParallelLayout(data=2),
}


def planned_and_measured(layout: ParallelLayout, **fields: object) -> tuple[RankMemory, dict[str, int]]:
    """Rank 0's plan, and the mean of what all ranks hold (replicas share the optimizer's state unevenly)."""
    batch = BatchShape(sequence_length=128, global_batch=2 * (layout.data or 1), micro_batch=2)
    run: RunConfig = tiny_run(layout=layout, model=MODEL, batch=batch, **fields)
    ranks = run_in_world(partial(measured_bytes, run), processes=layout.world_size)
    mean = {name: sum(rank[name] for rank in ranks) // len(ranks) for name in ranks[0]}
    (plan,) = rank_memory(run, [ranks[0]["parameters"]])
    return plan, mean


@pytest.mark.parametrize("parameters", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_training_step_holds_what_was_planned(layout, parameters):
    plan, measured = planned_and_measured(LAYOUTS[layout], precision=NumericPrecision(parameters=parameters))
    assert (plan.weights, plan.gradients) == (measured["weights"], measured["gradients"])
    assert plan.optimizer == pytest.approx(measured["optimizer"], abs=16)
    assert plan.activations == pytest.approx(measured["activations"], rel=0.1)


def test_full_recompute_keeps_the_layers_inputs_and_one_layer_at_work():
    layout = LAYOUTS["one process"]
    _, everything = planned_and_measured(layout)
    plan, measured = planned_and_measured(layout, recompute="full")
    one_layer = (everything["activations"] - measured["activations"]) / MODEL.layers
    assert plan.activations == pytest.approx(measured["activations"] + one_layer, rel=0.1)
