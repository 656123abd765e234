"""The model of a step's time: its FLOPs by torch's counter, its bubbles by formula and by playing the schedule, its
volumes by hand. How far it can be believed: the published runs of benchmarks/mfu_model.py, by the errors that
docs/gpu.md gives.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.mfu_model import implied_rate, layouts_of_the_14b, published_runs
from megaphi.data.batch import BatchShape
from megaphi.errors import InputError
from megaphi.model.architecture import PHI4_14B
from megaphi.parallel.layout import ParallelLayout
from megaphi.planning.step.device import H100, Device, group_rate
from megaphi.planning.step.shape import StepShape
from megaphi.planning.step.step_time import pipeline_seconds, replica_bytes, stage_passes, step_time
from megaphi.planning.step.work import attention_flops, context_bytes, embedding, head, layer, tensor_bytes, total
from tests.engine.layout_runs import TINY
from tests.model.test_arithmetic import huggingface_twin

PRODUCTS = ("QKV product", "projection", "FFN up", "FFN down", "output product")
COUNTING = Device(
    name="counts", peak=1.0, products=1.0, attention=1.0, memory=1e30, node_bytes=1e30, network_bytes=1e30
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
    passes = stage_passes(step, COUNTING, 0)
    products = sum(parts.get(name, 0.0) for parts in passes for name in PRODUCTS)
    attention = 3 * 2 * attention_flops(step) * TINY.layers
    rotary = 2 * 64 * (TINY.head_size // 2) * 2  # transformers computes the angles by a matrix product
    assert counter.get_total_flops() == pytest.approx(products + attention, abs=rotary)


@given(
    micro_batches=st.integers(1, 200), stages=st.integers(1, 16), virtual=st.integers(1, 8), seconds=st.floats(0.01, 10)
)
def test_equal_stages_wait_as_the_formula_says(micro_batches: int, stages: int, virtual: int, seconds: float) -> None:
    """Narayanan et al. 2021: (pipeline - 1) / (virtual x micro-batches) of the ideal time."""
    found = pipeline_seconds([seconds] * stages, micro_batches=micro_batches, virtual=virtual)
    ideal = micro_batches * seconds
    assert (found - ideal) / ideal == pytest.approx((stages - 1) / virtual / micro_batches)


Task = tuple[str, int, int]
"""A pass: forward or backward, virtual stage, micro-batch."""


def order_of(stage: int, *, stages: int, virtual: int, micro_batches: int) -> list[Task]:
    """A stage's passes in Megatron's order: some forward ones, then one of each, then the rest of the backward ones."""
    turns = [divmod(turn, stages * virtual) for turn in range(virtual * micro_batches)]
    forward = [("forward", within // stages, group * stages + within % stages) for group, within in turns]
    backward = [("backward", virtual - 1 - chunk, number) for _, chunk, number in forward]
    ahead = stages - 1 - stage if virtual == 1 else 2 * (stages - 1 - stage) + (virtual - 1) * stages
    ahead = min(ahead, len(forward))
    steady = [task for pair in zip(forward[ahead:], backward, strict=False) for task in pair]
    return forward[:ahead] + steady + backward[len(forward) - ahead :]


def play(seconds: list[tuple[float, float]], *, virtual: int, micro_batches: int) -> float:
    """Seconds of the schedule, if a stage's (forward, backward) pass of a micro-batch takes so long: each pass starts
    when its stage is free and what it needs is there."""
    stages = len(seconds)
    orders = [order_of(rank, stages=stages, virtual=virtual, micro_batches=micro_batches) for rank in range(stages)]
    ended: dict[tuple[int, Task], float] = {}
    clocks = [0.0] * stages

    def needed(stage: int, task: Task) -> tuple[int, Task] | None:
        kind, chunk, number = task
        place = chunk * stages + stage + (-1 if kind == "forward" else 1)
        if place < 0:
            return None
        if place == virtual * stages:
            return stage, ("forward", chunk, number)
        return place % stages, (kind, place // stages, number)

    while any(orders):
        for stage, order in enumerate(orders):
            while order and ((before := needed(stage, order[0])) is None or before in ended):
                task = order.pop(0)
                begun = max(clocks[stage], 0.0 if before is None else ended[before])
                clocks[stage] = begun + seconds[stage][0 if task[0] == "forward" else 1] / virtual
                ended[stage, task] = clocks[stage]
    return max(clocks)


@given(stages=st.integers(2, 6), virtual=st.integers(1, 5), groups=st.integers(2, 6), forward=st.floats(0.2, 0.5))
def test_equal_stages_take_as_long_as_the_schedule_that_is_played(
    stages: int, virtual: int, groups: int, forward: float
) -> None:
    played = play([(forward, 1 - forward)] * stages, virtual=virtual, micro_batches=groups * stages)
    found = pipeline_seconds([1.0] * stages, micro_batches=groups * stages, virtual=virtual)
    assert found == pytest.approx(played)


@given(stages=st.lists(st.floats(0.7, 1.0), min_size=1, max_size=8), each=st.integers(8, 20))
def test_unequal_stages_take_no_longer_than_predicted(stages: list[float], each: int) -> None:
    """Played, they end up to 3.5 % earlier: a stage that is faster than its neighbours makes up for some of a wait."""
    micro_batches = each * len(stages)
    played = play([(one / 3, one * 2 / 3) for one in stages], virtual=1, micro_batches=micro_batches)
    assert 1 - 1e-9 <= pipeline_seconds(stages, micro_batches=micro_batches, virtual=1) / played < 1.035


def test_uneven_stages_level_the_head() -> None:
    """In layers' time, the head 1.42 of them: 0.907 of the time is used in the steady state, and 0.941."""
    for stages, used in (((10, 10, 10, 11.42), 0.907), ((11, 10, 10, 10.42), 0.941)):
        many = pipeline_seconds(stages, micro_batches=10**6, virtual=1)
        assert sum(stages) / 4 * 10**6 / many == pytest.approx(used, abs=1e-3)


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
        assert layer(two, H100).forward[name] == pytest.approx(layer(one, H100).forward[name] / 2)
    again = dataclasses.replace(one, recompute="full")
    added = total(layer(again, H100).backward) - total(layer(one, H100).backward)
    assert added == pytest.approx(total(layer(one, H100).forward))


def test_adding_gradients_and_loss_chunks_cost_what_they_move() -> None:
    step = tiny_step(weight_gradients="added afterwards")
    numbers = sum(step.layer_matrices.values())
    assert layer(step, H100).backward["adding gradients"] == pytest.approx(numbers * 10 / H100.memory)
    chunked = tiny_step(model=dataclasses.replace(TINY, loss_chunk_tokens=16))
    again = head(chunked, COUNTING).backward["output product"] - head(tiny_step(), COUNTING).backward["output product"]
    assert again == 2 * 2 * 64 * TINY.vocabulary * TINY.hidden
    assert total(embedding(step, H100).forward) > 0


def test_stages_that_do_not_add_up_are_refused() -> None:
    for layers in ((2, 1), (4,), (5, -1)):
        with pytest.raises(InputError, match=r"stage_layers=.*add up to model\.layers=4"):
            tiny_step(layout=ParallelLayout(pipeline=2, data=1), stage_layers=layers)


def test_published_runs_took_longer_than_predicted_by_as_much_as_the_docs_say() -> None:
    """docs/gpu.md: 6 to 16 % longer; the products of those runs would have to sustain 585 to 680 TFLOP/s."""
    for run in published_runs():
        assert 0.84 < step_time(run.step, H100).seconds / run.seconds < 0.94, run.name
        rate = implied_rate(run, H100)
        assert 585e12 < rate < 680e12, run.name
        there = step_time(run.step, dataclasses.replace(H100, products=rate))
        assert there.seconds == pytest.approx(run.seconds)
