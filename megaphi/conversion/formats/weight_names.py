"""Megatron's weights and Hugging Face's, in one table of rows that is read in both directions.

Our rows of queries, keys and values are, for each key-value group, [its queries; its key; its value], so that tensor
ranks can be split between groups; theirs are [all queries; all keys; all values], in one tensor (Phi-3) or three
(Llama). So each of our weights is a list of segments, each of which is rows of one of their tensors, and the same list
sorted by their rows says where each of their tensors comes from. Everything else is one segment, or two: the gate and
the up projection.

A row is a row of a weight's matrix form (model/weights.py): the SwiGLU matrix is 2F of them, a norm D of one element.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from megaphi.errors import InputError
from megaphi.model.architecture import Architecture
from megaphi.model.weights import EMBEDDING, FINAL_NORM, OUTPUT, weights_of

Naming = Literal["phi3", "llama"]

LAYER_NAMES: Mapping[str, Mapping[Naming, tuple[str, ...]]] = {
    "input_layernorm": {"phi3": ("input_layernorm",), "llama": ("input_layernorm",)},
    "self_attention.linear_qkv": {
        "phi3": ("self_attn.qkv_proj",),
        "llama": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    },
    "self_attention.linear_proj": {"phi3": ("self_attn.o_proj",), "llama": ("self_attn.o_proj",)},
    "pre_mlp_layernorm": {"phi3": ("post_attention_layernorm",), "llama": ("post_attention_layernorm",)},
    "mlp.linear_fc1": {"phi3": ("mlp.gate_up_proj",), "llama": ("mlp.gate_proj", "mlp.up_proj")},
    "mlp.linear_fc2": {"phi3": ("mlp.down_proj",), "llama": ("mlp.down_proj",)},
}
"""Names within a layer, without `.weight`: `decoder.layers.{i}.` here, `model.layers.{i}.` there."""
THEIR_EMBEDDING, THEIR_FINAL_NORM, THEIR_OUTPUT = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
KNOWN_AND_DROPPED = ("self_attn.rotary_emb.inv_freq",)
"""Computed from the configuration; old exports carry it."""


@dataclass(frozen=True, slots=True)
class RowSegment:
    """Consecutive rows of one tensor."""

    tensor: str
    first: int
    rows: int


Table = Mapping[str, list[RowSegment]]
"""A tensor -> the rows of the other side's tensors that it is made of, in its own order."""


def our_table(model: Architecture, naming: Naming) -> Table:
    """Each of our weights from their rows; a tied model has no output layer, here or there.

    Raises:
        InputError: the model has a weight that no row of `LAYER_NAMES` names.
    """
    vocabulary = model.vocabulary
    table = {EMBEDDING: [RowSegment(THEIR_EMBEDDING, 0, vocabulary)]}
    for weight in weights_of(model):
        parts = weight.name.removesuffix(".weight").split(".", 3)
        if len(parts) == 4:
            layer, name = parts[2], parts[3]
            theirs = [f"model.layers.{layer}.{their}.weight" for their in LAYER_NAMES.get(name, {}).get(naming, ())]
            table[weight.name] = list(_layer_segments(name, theirs, weight.rows, model)) if theirs else []
    table[FINAL_NORM] = [RowSegment(THEIR_FINAL_NORM, 0, model.hidden)]
    if not model.tied_embeddings:
        table[OUTPUT] = [RowSegment(THEIR_OUTPUT, 0, vocabulary)]
    _refuse_unnamed(model, table)
    return table


def _refuse_unnamed(model: Architecture, table: Table) -> None:
    unnamed = [weight.name for weight in weights_of(model) if not table.get(weight.name)]
    if unnamed:
        raise InputError(
            f"Hugging Face's formats have no name for {', '.join(unnamed[:3])}: the model would not be the same without"
        )


def _layer_segments(name: str, theirs: list[str], rows: int, model: Architecture) -> Iterator[RowSegment]:
    """One weight of a layer, whose stacked parts are in one of their tensors or in a tensor each."""
    sizes, groups = [rows], 1
    if name == "self_attention.linear_qkv":
        sizes, groups = [model.query_width, model.key_value_width, model.key_value_width], model.key_value_groups
    elif name == "mlp.linear_fc1":
        sizes = [model.feed_forward, model.feed_forward]
    places = [(theirs[0], first) for first in accumulate(sizes[:-1], initial=0)]
    if len(theirs) > 1:
        places = [(tensor, 0) for tensor in theirs]
    for group in range(groups):
        for (tensor, first), size in zip(places, sizes, strict=True):
            yield RowSegment(tensor, first + size // groups * group, size // groups)


def their_table(table: Table) -> Table:
    """The inverse: each of their tensors from our rows."""
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
    """Shape of each of their tensors, from the embedding up."""
    columns = {weight.name: weight.shape[-1:] if len(weight.shape) > 1 else () for weight in weights_of(model)}
    shapes: dict[str, tuple[int, ...]] = {}
    for ours, segments in table.items():
        for segment in segments:
            (rows, *_) = shapes.get(segment.tensor, (0,))
            shapes[segment.tensor] = (max(rows, segment.first + segment.rows), *columns[ours])
    return shapes
