"""Boxes, the rectangular parts of a whole tensor, and the proof that some of them make it up: each number once.

A sum of sizes proves nothing: one part listed twice makes up for another that is missing, and what nobody stored would
be read as uninitialised memory. Every layout cuts a tensor into a grid, so what has to be shown is that the boxes are
the cells of one: along each dimension the intervals follow on each other from 0 to the end, and each combination of
them is there once. That takes time in proportion to the boxes, however many a hostile file lists.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangular part of a whole tensor."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def overlap(self, other: Box) -> Box | None:
        starts = [max(a, b) for a, b in zip(self.offset, other.offset, strict=True)]
        ends = [
            min(a + m, b + n) for a, m, b, n in zip(self.offset, self.shape, other.offset, other.shape, strict=True)
        ]
        if any(start >= end for start, end in zip(starts, ends, strict=True)):
            return None
        return Box(tuple(starts), tuple(end - start for start, end in zip(starts, ends, strict=True)))

    def slices_within(self, outer: Box) -> tuple[slice, ...]:
        """Index of this box in a tensor that holds `outer`."""
        return tuple(
            slice(start - origin, start - origin + size)
            for start, size, origin in zip(self.offset, self.shape, outer.offset, strict=True)
        )

    def slabs(self) -> Iterator[Box]:
        """The two-dimensional parts of a box of more dimensions, in order; one or two dimensions: itself."""
        leading = zip(self.offset[:-2], self.shape[:-2], strict=True)
        for place in product(*(range(start, start + size) for start, size in leading)):
            yield Box((*place, *self.offset[-2:]), (*(1 for _ in place), *self.shape[-2:]))

    def blocks(self, numel: int) -> Iterator[Box]:
        """Parts of whole rows, in order, each of `numel` numbers at most or of one row."""
        rows = max(0, len(self.shape) - 2)  # the dimension that counts them
        for slab in self.slabs() if self.numel else ():
            step = max(1, numel // math.prod(slab.shape[rows + 1 :]))
            for start in range(0, slab.shape[rows], step):
                offset, shape = list(slab.offset), list(slab.shape)
                offset[rows], shape[rows] = offset[rows] + start, min(step, shape[rows] - start)
                yield Box(tuple(offset), tuple(shape))

    def rows_for(self, start: int, end: int) -> Box:
        """The fewest whole rows of a box of one or two dimensions that hold elements [start, end) of it, flattened."""
        width = math.prod(self.shape[1:])
        first, last = start // width, -(-end // width)
        return Box((self.offset[0] + first, *self.offset[1:]), (last - first, *self.shape[1:]))


def whole_box(shape: tuple[int, ...]) -> Box:
    return Box((0,) * len(shape), shape)


def flat_offset(inner: Box, outer: Box) -> int:
    """Offset of a box of whole rows in the flattened box around it."""
    place = 0
    for start, origin, size in zip(inner.offset, outer.offset, outer.shape, strict=True):
        place = place * size + start - origin
    return place


def is_cover(whole: tuple[int, ...], boxes: Collection[Box]) -> bool:
    """Return whether the boxes are a grid that covers a tensor of the shape `whole`, each cell once."""
    if math.prod(whole) == 0:
        return not boxes
    cells = 1
    for dimension, size in enumerate(whole):
        intervals = {(box.offset[dimension], box.shape[dimension]) for box in boxes}
        if not is_chain(((start, start + length) for start, length in intervals), size):
            return False
        cells *= len(intervals)
    return len(boxes) == len({*boxes}) == cells


def is_chain(intervals: Iterable[tuple[int, int]], size: int) -> bool:
    """Return whether intervals (start, end), in any order, follow on each other from 0 to `size`; none is empty."""
    reached = 0
    for start, end in sorted(intervals):
        if start != reached or end <= start:
            return False
        reached = end
    return reached == size
