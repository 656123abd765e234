"""Rank arithmetic against Megatron's own, and every refusal of a layout."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.parallel_state import RankGenerator

from megaphi.errors import InputError
from megaphi.parallel.layout import Coordinates, ParallelLayout

PHI4 = {
    "layers": 40,
    "heads": 40,
    "feed_forward": 17_920,
    "sequence_length": 4_096,
}
WAYS = st.integers(1, 4)


@given(tensor=WAYS, context=WAYS, data=WAYS, pipeline=WAYS)
@settings(max_examples=50, deadline=None)
def test_groups_of_ranks_are_megatrons(tensor, context, data, pipeline):
    layout = ParallelLayout(tensor=tensor, context=context, pipeline=pipeline)
    layout = layout.for_world(tensor * context * data * pipeline)
    megatron = RankGenerator(tp=tensor, ep=1, dp=data, pp=pipeline, cp=context, order="tp-cp-ep-dp-pp")
    for place, token in enumerate(("tp", "cp", "dp", "pp")):
        groups: dict[tuple, list[int]] = {}
        for rank in range(layout.world_size):
            coordinates = layout.coordinates(rank)
            groups.setdefault(coordinates[:place] + coordinates[place + 1 :], []).append(rank)
        assert sorted(groups.values()) == sorted(megatron.get_ranks(token))


@given(tensor=WAYS, context=WAYS, data=WAYS, pipeline=WAYS)
@settings(max_examples=50, deadline=None)
def test_ranks_and_coordinates_are_inverse(tensor, context, data, pipeline):
    layout = ParallelLayout(tensor=tensor, context=context, pipeline=pipeline, data=data)
    places = itertools.product(range(tensor), range(context), range(data), range(pipeline))
    ranks = {layout.rank_of(Coordinates(*place)): Coordinates(*place) for place in places}
    assert sorted(ranks) == list(range(layout.world_size))
    assert all(layout.coordinates(rank) == place for rank, place in ranks.items())


def test_data_is_what_is_left_of_the_world():
    layout = ParallelLayout(tensor=2, pipeline=4, sequence_parallel=True).for_world(512)
    assert (layout.data, layout.world_size, layout.model_ranks) == (64, 512, 8)
    assert str(layout) == "tensor 2 x pipeline 4 x data 64, sequence parallel"
    assert layout.for_world(512) == layout


@pytest.mark.parametrize(
    ("fields", "world_size", "message"),
    [
        ({"tensor": 0}, 1, "layout.tensor=0: must be at least 1"),
        ({"data": -2}, 1, "layout.data=-2: must be at least 1"),
        ({"tensor": 2, "pipeline": 3}, 8, r"8 processes cannot hold whole copies .* a multiple of 6"),
        ({"tensor": 2, "data": 3}, 8, r"layout.data=3 contradicts 8 processes, which leave 4 .* start 6 processes"),
    ],
)
def test_worlds_that_do_not_fit(fields, world_size, message):
    with pytest.raises(InputError, match=message):
        ParallelLayout(**fields).for_world(world_size)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tensor": 16}, "layout.tensor=16 does not divide model.heads=40: choose one of 1, 2, 4, 5, 8, 10, 20, 40"),
        ({"pipeline": 3}, "layout.pipeline=3 does not divide model.layers=40: choose one of 1, 2, 4, 5, 8, 10"),
        ({"pipeline": 8, "virtual_pipeline": 10}, "layout.pipeline x layout.virtual_pipeline=80 does not divide"),
        ({"pipeline": 3}, r"or give layout.stage_layers, the layers of each chunk$"),
        ({"pipeline": 3, "virtual_pipeline": 2}, r", the layers of each chunk, or layout.virtual_pipeline=1$"),
        ({"pipeline": 4, "stage_layers": (11, 10, 10, 8)}, "stage_layers=11,10,10,8 adds up to 39 layers, but .*=40"),
        (
            {"pipeline": 4, "stage_layers": (20, 20)},
            "stage_layers=20,20 has 2 numbers, but layout.pipeline=4: give one",
        ),
        (
            {"pipeline": 2, "virtual_pipeline": 2, "stage_layers": (20, 20)},
            "has 2 numbers, but layout.pipeline x layout.virtual_pipeline=4",
        ),
        ({"pipeline": 2, "stage_layers": (40, 0)}, r"stage_layers.1=0: must be at least 1"),
        ({"virtual_pipeline": 2}, "layout.virtual_pipeline=2 needs layout.pipeline of at least 2"),
        ({"context": 3}, "sequence_length=4096 cannot be cut into two chunks .* a multiple of 6"),
    ],
)
def test_layouts_that_do_not_divide_phi4(fields, message):
    layout = ParallelLayout(**fields)
    with pytest.raises(InputError, match=message):
        layout.for_world(layout.model_ranks).check_model(**PHI4)


def test_sequence_parallelism_divides_the_sequence():
    layout = ParallelLayout(tensor=2, context=2, sequence_parallel=True).for_world(4)
    layout.check_model(**{**PHI4, "sequence_length": 8})
    with pytest.raises(InputError, match=r"sequence_parallel splits 2050 positions .*|cannot be cut into two chunks"):
        layout.check_model(**{**PHI4, "sequence_length": 4_102})
    layout = ParallelLayout(tensor=5, sequence_parallel=True).for_world(5)
    with pytest.raises(InputError, match=r"multiple of 5, or layout.sequence_parallel=false"):
        layout.check_model(**PHI4)
    dataclasses.replace(layout, sequence_parallel=False).check_model(**PHI4)


@pytest.mark.parametrize(
    ("fields", "batch", "message"),
    [
        ({}, (0, 1), "batch.global_batch=0: must be at least 1"),
        ({}, (8, 0), "batch.micro_batch=0: must be at least 1"),
        ({"data": 2}, (8, 3), r"use a multiple of 6, or batch\.micro_batch=2, which trains the same"),
        (
            {"data": 2, "pipeline": 2, "virtual_pipeline": 2},
            (8, 4),
            r"at least 16, or batch\.micro_batch=2, which trains the same",
        ),
        ({"data": 3}, (8, 2), "global_batch=8 is not a multiple of .*micro_batch=2 x 3 replicas: use a multiple of 6"),
        ({"pipeline": 4, "virtual_pipeline": 2}, (3, 1), r"at least layout.pipeline=4 micro-batches, .* has 3: .* 4$"),
    ],
)
def test_batches_that_cannot_be_shared(fields, batch, message):
    layout = ParallelLayout(**fields)
    layout = layout.for_world(layout.model_ranks * (layout.data or 1))
    with pytest.raises(InputError, match=message):
        layout.check_batch(global_batch=batch[0], micro_batch=batch[1])


def test_micro_batches_per_step():
    layout = ParallelLayout(tensor=2, pipeline=4).for_world(512)
    assert layout.check_batch(global_batch=5_760, micro_batch=1) == 90


@pytest.mark.parametrize(
    ("micro_batches", "group"), [(4, 4), (5, 5), (7, 7), (8, 4), (9, 5), (45, 5), (90, 5), (91, 7)]
)
def test_the_smallest_group_of_micro_batches_in_which_no_stage_waits(micro_batches, group):
    layout = ParallelLayout(pipeline=4, virtual_pipeline=5, data=1)
    assert layout.check_batch(global_batch=micro_batches, micro_batch=1) == micro_batches
    assert layout.micro_batch_group(micro_batches) == group


@pytest.mark.parametrize(
    ("fields", "layers", "chunks"),
    [
        ({"pipeline": 3}, 40, (14, 13, 13)),
        ({"pipeline": 4}, 40, (10, 10, 10, 10)),
        ({"pipeline": 3}, 3, (1, 1, 1)),
        ({"pipeline": 2, "stage_layers": (1, 4)}, 5, (1, 4)),
    ],
)
def test_stages_that_do_not_divide_the_layers_for_reading(fields, layers, chunks):
    layout = ParallelLayout(**fields).with_stages_for(layers)
    layout.check_model(layers=layers, heads=4, feed_forward=4, sequence_length=1)
    assert layout.chunk_layers(layers) == chunks
    assert layout.stage_layers == (fields.get("stage_layers") or (() if len({*chunks}) == 1 else chunks))


def test_chunks_of_layers_take_turns_at_the_stages():
    layout = ParallelLayout(pipeline=2, virtual_pipeline=2, stage_layers=(1, 3, 2, 1))
    assert str(layout) == "tensor 1 x pipeline 2 x virtual pipeline 2 of 1/3/2/1 layers x data auto"
    assert [layout.stage_of_layer(layer, layers=7) for layer in range(7)] == [0, 1, 1, 1, 0, 0, 1]
    even = dataclasses.replace(layout, stage_layers=())
    assert even.chunk_layers(8) == (2, 2, 2, 2)
    assert [even.stage_of_layer(layer, layers=8) for layer in range(8)] == [0, 0, 1, 1, 0, 0, 1, 1]
