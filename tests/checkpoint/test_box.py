"""The proof that boxes cover a tensor: by counting each number of it, over random grids, cuts and damages."""

from __future__ import annotations

import time
from itertools import pairwise, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.checkpoint.box import Box, is_chain, is_cover, whole_box


def grid(shape: tuple[int, ...], cuts: list[list[int]]) -> list[Box]:
    bounds = [sorted({0, size, *(cut % size for cut in own)}) for size, own in zip(shape, cuts, strict=True)]
    places = product(*(pairwise(one) for one in bounds))
    return [Box(tuple(a for a, _ in place), tuple(b - a for a, b in place)) for place in places]


SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)


@given(shape=SHAPES, data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_cover_is_one_by_counting(shape: tuple[int, ...], data: st.DataObject) -> None:
    cuts = [data.draw(st.lists(st.integers(0, 5), max_size=2)) for _ in shape]
    boxes = data.draw(st.permutations(grid(shape, cuts)))
    assert is_cover(shape, boxes)
    at = data.draw(st.integers(0, len(boxes) - 1))
    damage = data.draw(st.sampled_from(["left out", "twice", "moved", "other size", "in another's place"]))
    box, other = boxes[at], data.draw(st.sampled_from(boxes))
    changed = {
        "left out": [],
        "twice": [box, box],
        "moved": [Box((box.offset[0] + 1, *box.offset[1:]), box.shape)],
        "other size": [Box(box.offset, (box.shape[0] + 1, *box.shape[1:]))],
        "in another's place": [other],
    }[damage]
    boxes = [*boxes[:at], *changed, *boxes[at + 1 :]]
    counts = np.zeros(tuple(2 * size + 2 for size in shape), dtype=int)
    for one in boxes:
        counts[tuple(slice(start, start + size) for start, size in zip(one.offset, one.shape, strict=True))] += 1
    inside = counts[tuple(slice(0, size) for size in shape)]
    assert is_cover(shape, boxes) == bool((inside == 1).all() and counts.sum() == inside.sum())


@given(shape=SHAPES, numel=st.integers(1, 40), data=st.data())
@settings(max_examples=100, deadline=None)
def test_blocks_are_the_numbers_of_a_box_in_order(shape: tuple[int, ...], numel: int, data: st.DataObject) -> None:
    offset = tuple(data.draw(st.integers(0, size)) for size in shape)
    box = Box(offset, tuple(data.draw(st.integers(0, size - start)) for size, start in zip(shape, offset, strict=True)))
    whole = np.arange(np.prod(shape)).reshape(shape)
    blocks = [whole[block.slices_within(whole_box(shape))] for block in box.blocks(numel)]
    assert np.array_equal(np.concatenate([[], *(block.ravel() for block in blocks)]), whole[_place(box)].ravel())
    row = box.shape[-1] if len(shape) > 1 else 1
    assert all(0 < block.size <= max(numel, row) for block in blocks)


def _place(box: Box) -> tuple[slice, ...]:
    return box.slices_within(whole_box(box.shape))


def test_a_sum_of_sizes_proves_nothing() -> None:
    assert not is_cover((4, 2), [Box((0, 0), (2, 2)), Box((0, 0), (2, 2))])
    assert not is_cover((4, 2), [Box((0, 0), (2, 2)), Box((1, 0), (2, 2))])
    assert not is_chain([(0, 3), (2, 4), (3, 4)], 4)
    assert not is_chain([], 4)
    assert is_chain([], 0)


def test_many_boxes_take_no_longer_than_they_are() -> None:
    began = time.process_time()
    assert is_cover((20_000, 8), [Box((row, 0), (1, 8)) for row in range(20_000)])
    assert not is_cover((20_000, 20_000), [Box((row, row), (1, 1)) for row in range(20_000)])
    assert time.process_time() - began < 2
