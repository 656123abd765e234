"""The model of a step's time: its FLOPs by torch's counter, its bubble by formula, its volumes by hand.

How far it can be believed: the published runs of benchmarks/mfu_model.py, by the errors that docs/gpu.md gives.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.mfu_model import at_implied_rate, layouts_of_the_14b, median_error
from benchmarks.mfu_published import nvidia_bf16, published_runs
from megaphi.data.batch import BatchShape
from megaphi.model.architecture import PHI4_14B
from megaphi.parallel.layout import ParallelLayout
from megaphi.planning.step.device import H100, Device, group_rate, product_seconds
from megaphi.planning.step.shape import StepShape, shape_of
from megaphi.planning.step.step_time import chunk_passes, replica_bytes, step_time
from megaphi.planning.step.work import attention_flops, context_bytes, embedding, head, layer, tensor_bytes, total
from tests.engine.layout_runs import TINY, tiny_run
from tests.model.test_arithmetic import huggingface_twin

PRODUCTS = ("QKV product", "projection", "FFN up", "FFN down", "output product")
COUNTING = Device(
    name="counts",
    peak=1.0,
    products=1.0,
    attention=1.0,
    memory=1e30,
    node_bytes=1e30,
    network_bytes=1e30,
    multiprocessors=1,
    tile=(1, 1),
    launch_seconds=0.0,
    memory_gigabytes=1.0,
    watts=1.0,
)
"""A device whose seconds are FLOPs."""


def tiny_step(*, batch: BatchShape | None = None, **fields) -> StepShape:
    layout = fields.pop("layout", ParallelLayout(data=1))
    batch = batch or BatchShape(sequence_length=64, global_batch=8, micro_batch=2)
    return StepShape(model=fields.pop("model", TINY), layout=layout, batch=batch, **fields)


def test_its_products_are_those_that_torch_counts() -> None:
    """One micro-batch, forward and backward, attention in full and its scores not computed twice."""
    step = tiny_step()
    model, tokens = huggingface_twin(TINY), torch.randint(TINY.vocabulary, (2, 64))
    with FlopCounterMode(display=False) as counter:
        model(tokens, labels=tokens).loss.backward()
    passes = chunk_passes(step, COUNTING, 0)
    products = sum(parts.get(name, 0.0) for parts in passes for name in PRODUCTS)
    attention = 3 * 2 * attention_flops(step) * TINY.layers
    rotary = 2 * 64 * (TINY.head_size // 2) * 2  # transformers computes the angles by a matrix product
    assert counter.get_total_flops() == pytest.approx(products + attention, abs=rotary)


@pytest.mark.parametrize("virtual", [1, 5])
def test_the_bubble_is_that_of_the_formula(virtual: int) -> None:
    """Narayanan et al. 2021: (pipeline - 1) / (virtual x micro-batches) of the ideal time, where stages are equal."""
    step = layouts_of_the_14b(512)["PP 4" if virtual == 1 else "PP 4 x VPP 5"]
    nothing_beside = dataclasses.replace(step, model=dataclasses.replace(PHI4_14B, vocabulary=64))
    parts = step_time(nothing_beside, H100).parts
    beside = ("pipeline bubble", "point to point", "gradients and weights", "optimizer")
    busy = sum(seconds for name, seconds in parts.items() if name not in beside)
    assert parts["pipeline bubble"] / busy == pytest.approx(3 / virtual / step.micro_batches, rel=1e-2)


def test_one_layer_fewer_below_the_head_is_faster() -> None:
    found = {name: step_time(step, H100).seconds for name, step in layouts_of_the_14b(512).items()}
    assert found["PP 4, layers 11,10,10,9"] < 0.98 * found["PP 4"]
    assert found["PP 4 x VPP 5, layers 11,10,10,9"] < 0.98 * found["PP 4 x VPP 5"]


def test_volumes_by_hand() -> None:
    """TINY is 48 wide, with 2 key-value groups of 8, and micro-batches of 2 x 64 tokens; bf16 activations."""
    cut = tiny_step(layout=ParallelLayout(tensor=2, sequence_parallel=True, data=1))
    row = 2 * 64 * 48 * 2
    assert tensor_bytes(cut).forward == {"tensor collectives": 4 * row / 2}
    assert tensor_bytes(cut).backward == {"tensor collectives": 6 * row / 2}
    whole = tiny_step(layout=ParallelLayout(tensor=2, data=1))
    assert tensor_bytes(whole).backward == {"tensor collectives": 4 * row / 2}  # two all-reduces: there and back
    shared = tiny_step(layout=ParallelLayout(context=2, data=1))
    keys_and_values = 2 * (2 * 32) * (2 * 8) * 2
    assert context_bytes(shared).forward == {"context collectives": keys_and_values}
    copies = tiny_step(layout=ParallelLayout(data=4))
    assert replica_bytes(copies, 0) == (TINY.parameters * 4 * 3 / 4, TINY.parameters * 2 * 3 / 4)


@pytest.mark.parametrize("pipeline", [1, 2, 4])
def test_stages_hold_every_parameter_once(pipeline: int) -> None:
    step = tiny_step(layout=ParallelLayout(pipeline=pipeline, data=1))
    assert sum(map(step.parameters_of_stage, range(pipeline))) == TINY.parameters


def test_the_step_of_a_run_is_computed_as_the_run_says() -> None:
    run = tiny_run(layout=ParallelLayout(data=2), recompute="full", overlap_communication=False)
    step = shape_of(run)
    assert (step.model, step.layout, step.batch) == (run.model, run.layout, run.batch)
    assert (step.recompute, step.overlap_gradients, step.micro_batches) == ("full", False, 2)
    assert "recomputation" in step_time(step, H100).parts


def test_a_group_has_the_bandwidth_of_its_cards() -> None:
    assert group_rate(H100, ranks=8, stride=1) == H100.node_bytes
    assert group_rate(H100, ranks=128, stride=1) == H100.node_bytes  # eight cards: more than NVLink
    assert group_rate(H100, ranks=64, stride=2) == 4 * H100.network_bytes
    assert group_rate(H100, ranks=4, stride=64) == H100.network_bytes


def test_parts_are_the_step_and_a_faster_device_is_faster() -> None:
    for step in layouts_of_the_14b(512).values():
        time = step_time(step, H100)
        assert time.seconds == pytest.approx(sum(time.parts.values()))
        assert 0 < time.utilisation("causal") < time.utilisation("full") < H100.products / H100.peak
        for rate in ("products", "attention", "memory"):
            faster = dataclasses.replace(H100, **{rate: 2 * getattr(H100, rate)})
            assert step_time(step, faster).seconds < time.seconds


def test_two_tensor_ranks_halve_products_and_recomputation_adds_a_forward_pass() -> None:
    one = StepShape(model=PHI4_14B, layout=ParallelLayout(data=1), batch=BatchShape(global_batch=8))
    two = dataclasses.replace(one, layout=ParallelLayout(tensor=2, sequence_parallel=True, data=1))
    for name in PRODUCTS[:4]:
        assert layer(two, COUNTING).forward[name] == pytest.approx(layer(one, COUNTING).forward[name] / 2)
    again = dataclasses.replace(one, recompute="full")
    added = total(layer(again, H100).backward) - total(layer(one, H100).backward)
    assert added == pytest.approx(total(layer(one, H100).forward))


def test_adding_gradients_and_loss_chunks_cost_what_they_move() -> None:
    step = tiny_step(weight_gradients="added afterwards")
    numbers = sum(matrix.numbers for matrix in step.layer_matrices.values())
    assert layer(step, H100).backward["adding gradients"] == pytest.approx(numbers * 10 / H100.memory)
    chunked = tiny_step(model=dataclasses.replace(TINY, loss_chunk_tokens=16))
    again = head(chunked, COUNTING).backward["output product"] - head(tiny_step(), COUNTING).backward["output product"]
    assert again == 2 * 2 * 64 * TINY.vocabulary * TINY.hidden
    assert total(embedding(step, H100).forward) > 0


def test_published_runs_were_predicted_as_well_as_the_docs_say() -> None:
    """docs/planning.md: the median error of all, and of NVIDIA's own recipes."""
    assert median_error(H100, published_runs()) < 0.10
    assert median_error(H100, nvidia_bf16()) < 0.08
    for run in published_runs():
        there = step_time(run.step, at_implied_rate(run, H100))
        assert there.seconds == pytest.approx(run.seconds), run.name


@pytest.mark.parametrize(
    ("size", "rate"), [(2_048, 1_011.3), (4_096, 1_216.9), (8_192, 1_290.1), (16_384, 1_377.3), (32_768, 1_382.2)]
)
def test_products_take_what_cublaslt_took_on_an_h100(size: int, rate: float) -> None:
    """FP8, random data, 10,000 products before: Azure's AI benchmarking guide, ND H100 v5."""
    seconds = product_seconds(H100, rows=size, inner=size, columns=size, precision="fp8")
    assert 2 * size**3 / seconds / 1e12 == pytest.approx(rate, rel=0.02)


def test_a_large_bf16_product_has_the_published_rate() -> None:
    """720 TFLOP/s with random data: SemiAnalysis."""
    seconds = product_seconds(H100, rows=8_192, inner=8_192, columns=8_192)
    assert 2 * 8_192**3 / seconds / 1e12 == pytest.approx(720, rel=0.01)


def test_fp8_is_faster_in_the_layers_only_and_costs_casts() -> None:
    step = tiny_step(model=PHI4_14B, batch=BatchShape(global_batch=8))
    fp8 = dataclasses.replace(step, precision="fp8")
    assert head(fp8, H100) == head(step, H100)
    assert layer(fp8, H100).forward["FFN up"] < 0.6 * layer(step, H100).forward["FFN up"]
    assert layer(fp8, H100).backward["FP8 casts"] > 0
    assert step_time(fp8, H100).seconds < step_time(step, H100).seconds
