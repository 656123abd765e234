"""The planned bytes of every pipeline stage against those that a real training step holds at its peak."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest

from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout
from megaphi.planning.memory import RankMemory, rank_memory
from megaphi.planning.step.shape import shape_of
from megaphi.stages.finetune import Finetune
from tests.engine.layout_runs import TINY, tiny_run
from tests.gloo_world import run_in_world
from tests.planning.memory_runs import measured_bytes, measured_bytes_on_a_gpu

MODEL = dataclasses.replace(TINY, layers=4, hidden=96, feed_forward=256, vocabulary=512, head_size=16)
TOKENS = 2 * 128
TASK: Any = tiny_run().task
TEXT: Mixture = TASK.mixture
Measure = Callable[[RunConfig], dict[str, int]]
LAYOUTS = [
    ParallelLayout(data=1),
    ParallelLayout(data=1, tensor=2),
    ParallelLayout(data=1, tensor=2, sequence_parallel=True),
    ParallelLayout(data=1, context=2),
    ParallelLayout(data=2),
    ParallelLayout(data=1, pipeline=4),
    ParallelLayout(data=1, pipeline=2, virtual_pipeline=2),
    ParallelLayout(data=1, pipeline=2, stage_layers=(3, 1)),
    ParallelLayout(data=1, tensor=2, context=2),
]


def planned_and_measured(
    layout: ParallelLayout, model: Architecture = MODEL, *, measure: Measure = measured_bytes, **fields: Any
) -> list[tuple[RankMemory, dict[str, int]]]:
    """For each pipeline stage its plan, and the mean of what its ranks hold (replicas share unevenly).

    The plan is that of `megaphi plan`, which counts parameters without the modules: they are compared here, always.
    The first context rank sees the fewest keys: the others' activations are "most activations".
    """
    batch = BatchShape(sequence_length=128, global_batch=8 * (layout.data or 1), micro_batch=2)
    run = tiny_run(**{"layout": layout, "model": model, "batch": batch, **fields})
    ranks = run_in_world(partial(measure, run), processes=layout.world_size)
    stages = [[rank for rank in ranks if rank["stage"] == stage] for stage in range(layout.pipeline)]
    means = [{name: sum(rank[name] for rank in stage) // len(stage) for name in stage[0]} for stage in stages]
    for mean, stage in zip(means, stages, strict=True):
        mean["most activations"] = max(rank["activations"] for rank in stage)
    parameters = [shape_of(run).parameters_of_stage(stage) for stage in range(layout.pipeline)]
    assert parameters == [mean["parameters"] for mean in means]
    return list(zip(rank_memory(run, parameters), means, strict=True))


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_training_step_holds_what_was_planned(layout, recompute):
    for plan, measured in planned_and_measured(layout, recompute=recompute):
        assert (plan.weights, plan.gradients) == (measured["weights"], measured["gradients"])
        assert plan.optimizer == pytest.approx(measured["optimizer"], abs=16)
        assert plan.activations == pytest.approx(measured["activations"], rel=0.05)


@pytest.mark.parametrize("micro_batches", [7, 8])
@pytest.mark.parametrize(
    "layout",
    [
        ParallelLayout(data=1, pipeline=4, virtual_pipeline=3),
        ParallelLayout(data=1, pipeline=4, virtual_pipeline=2, stage_layers=(1, 2, 1, 2, 3, 1, 1, 1)),
    ],
    ids=str,
)
def test_interleaved_stages_hold_what_was_planned(layout, micro_batches):
    """Twelve layers, and groups of seven and of four micro-batches."""
    model = dataclasses.replace(MODEL, layers=12)
    batch = BatchShape(sequence_length=128, global_batch=2 * micro_batches, micro_batch=2)
    for plan, measured in planned_and_measured(layout, model, batch=batch):
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


FORTY = dataclasses.replace(MODEL, heads=40, key_value_groups=10, layers=2)
"""Four tensor ranks do not divide its groups: each holds 3 of the 10, and attention is given 5 keys."""


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"recompute": "selective"},
        {"recompute": "full"},
        {"kernels": "reference"},
        {"attention": "softmax"},
        {"task": dataclasses.replace(TASK, mixture=dataclasses.replace(TEXT, isolate_documents=True))},
    ],
    ids=str,
)
def test_copied_groups_are_planned(fields: dict[str, Any]) -> None:
    computed_by = {name: fields.pop(name) for name in ("kernels", "attention") if name in fields}
    model = dataclasses.replace(FORTY, **computed_by)
    layout = ParallelLayout(data=1, tensor=4, sequence_parallel=True)
    for plan, measured in planned_and_measured(layout, model, **fields):
        assert (plan.weights, plan.gradients) == (measured["weights"], measured["gradients"])
        assert plan.optimizer == pytest.approx(measured["optimizer"], abs=16)
        assert plan.activations == pytest.approx(measured["activations"], rel=0.05)


ISOLATED = dataclasses.replace(TEXT, isolate_documents=True)
SEGMENTS = {
    "rows": (TASK, 4_096, 4, 1),
    "documents": (dataclasses.replace(TASK, mixture=ISOLATED), 1_024, 2, 2),
    "documents, one rank": (dataclasses.replace(TASK, mixture=ISOLATED), 1_024, 1, 2),
    "conversations": (Finetune(paths=("unused",)), 2_048, 2, 1),
    "conversations, one rank": (Finetune(paths=("unused",)), 1_024, 1, 2),
}
"""Task, tokens of a row, context ranks, rows of a micro-batch."""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "recompute"), [*product(SEGMENTS, ["none"]), ("conversations", "selective")])
def test_long_rows_of_segments_hold_what_was_planned(kind: str, precision: Any, recompute: str) -> None:
    """As long as they can be, one to a row. In bfloat16 by one launch, whose kernel has a stand-in here."""
    task, length, context, rows = SEGMENTS[kind]
    stages = planned_and_measured(
        ParallelLayout(data=1, context=context),
        measure=measured_bytes_on_a_gpu if precision == "bfloat16" else measured_bytes,
        task=task,
        batch=BatchShape(sequence_length=length, global_batch=rows, micro_batch=rows),
        precision=NumericPrecision(parameters=precision),
        recompute=recompute,
    )
    for plan, measured in stages:
        assert plan.activations == pytest.approx(measured["most activations"], rel=0.02)
