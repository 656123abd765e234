"""The table between Megatron's weights and Hugging Face's, used in both directions.

Our matrix of queries, keys and values has, for each key-value group, [its queries; its key; its value], so that tensor
ranks can be split between groups; theirs is [all queries; all keys; all values], in one tensor (Phi-3) or three
(Llama). So each of our weights is a list of segments, the rows of one of their tensors, and the same list sorted by
their rows gives the origin of each of their tensors. Every other weight is one segment, or two: gate and up projection.
Names, parts and groups come from the weight's row in the model (model/rows/weight_row.py).

Rows below are those of a weight's matrix form: the SwiGLU matrix has 2F, a norm D of one element.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from megaphi.errors import InputError
from megaphi.model.architecture import Architecture
from megaphi.model.rows.weight_row import Naming, Weight
from megaphi.model.weights import weights_of

KNOWN_AND_DROPPED = ("self_attn.rotary_emb.inv_freq",)
"""A tensor of old exports that is computed from the configuration."""


@dataclass(frozen=True, slots=True)
class RowSegment:
    """Consecutive rows of one tensor."""

    tensor: str
    first: int
    rows: int


Table = Mapping[str, list[RowSegment]]
"""Tensor -> the segments of the other side's tensors that make it up, in order."""


def our_table(model: Architecture, naming: Naming) -> Table:
    """The table of our weights, each from their rows; a tied model has no output layer on either side.

    Raises:
        InputError: the naming has no name for a weight of the model.
    """
    weights = weights_of(model)
    unnamed = [weight.name for weight in weights if not weight.huggingface.get(naming)]
    if unnamed:
        raise InputError(
            f"Hugging Face's formats have no name for {', '.join(unnamed[:3])}: the model would not be the same without"
        )
    return {weight.name: list(_segments(weight, weight.huggingface[naming])) for weight in weights}


def _segments(weight: Weight, theirs: Sequence[str]) -> Iterator[RowSegment]:
    """Segments of one weight, whose stacked parts are in one of their tensors or in a tensor each."""
    sizes = weight.parts or (weight.rows,)
    places = [(theirs[0], first) for first in accumulate(sizes[:-1], initial=0)]
    if len(theirs) > 1:
        places = [(tensor, 0) for tensor in theirs]
    for group in range(weight.groups):
        for (tensor, first), size in zip(places, sizes, strict=True):
            yield RowSegment(tensor, first + size // weight.groups * group, size // weight.groups)


def their_table(table: Table) -> Table:
    """The inverse table: each of their tensors from our rows."""
    found: dict[str, list[tuple[int, RowSegment]]] = {}
    for ours, segments in table.items():
        row = 0
        for segment in segments:
            found.setdefault(segment.tensor, []).append((segment.first, RowSegment(ours, row, segment.rows)))
            row += segment.rows
    return {tensor: [part for _, part in sorted(parts, key=lambda part: part[0])] for tensor, parts in found.items()}


def segments_within(segments: list[RowSegment], start: int, end: int) -> Iterator[RowSegment]:
    """Yield the segments that make up rows [start, end) of a tensor, in order."""
    row = 0
    for segment in segments:
        low, high = max(start, row), min(end, row + segment.rows)
        if low < high:
            yield RowSegment(segment.tensor, segment.first + low - row, high - low)
        row += segment.rows


def their_shapes(model: Architecture, table: Table) -> dict[str, tuple[int, ...]]:
    """Shapes of their tensors, from the embedding up."""
    columns = {weight.name: weight.shape[-1:] if weight.is_matrix else () for weight in weights_of(model)}
    shapes: dict[str, tuple[int, ...]] = {}
    for ours, segments in table.items():
        for segment in segments:
            (rows, *_) = shapes.get(segment.tensor, (0,))
            shapes[segment.tensor] = (max(rows, segment.first + segment.rows), *columns[ours])
    return shapes
