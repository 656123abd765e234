"""One row per weight: everything the package knows about it, for building, drawing, saving, planning and conversion.

A row holds a weight's names here, in Transformer Engine's layers, in Hugging Face's formats and in GGUF; its shape; the
dimension that tensor ranks cut; how it is drawn. The rows of a model are those of its variant (`model/variants`). A
variant gives the rows of one layer, and `in_layer` makes them those of a numbered layer.

A weight also has a matrix form, whose rows are the unit of conversion between formats: the SwiGLU matrix (2, F, D) as
2F rows, gates first; a norm or a bias with one element a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from megaphi.model.rows.head_cut import HeadCut
from megaphi.parallel.layout import padded_vocabulary

Naming = Literal["phi3", "llama"]
"""Hugging Face's two ways to name the same weights: queries, keys and values in one tensor, or in three."""
Place = Literal["bottom", "layer", "top"]
"""Before the first layer, in every layer, or after the last one."""
Drawn = Literal["normal", "residual", "ones", "zeros"]
"""residual: normal, with a standard deviation that falls with the number of layers (model/initialize.py)."""
Gradient = Literal["whole", "sequence_share", "part"]
"""Portion of the gradient that a tensor rank computes of a weight that is not cut.

whole: all of it, the same on every rank. sequence_share: under sequence parallelism that of the rank's share of the
tokens, as of a norm of the residual stream; otherwise all of it. part: that of the rank's heads or features, as of a
norm of each head. Portions are added up over the ranks (model/tensor_gradients.py).
"""
LAYERS = "decoder.layers."


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """One weight of the whole model; in a variant's row of a layer, names are those after the layer's number."""

    name: str
    """Megatron's name, with `.weight` or `.bias`."""
    shape: tuple[int, ...]
    cut: int | None = None
    """The dimension that is cut over the tensor ranks; None: every tensor rank holds all of it."""
    gradient: Gradient | None = None
    """Required of a weight that is not cut where there are several tensor ranks; of a cut one each has its own."""
    drawn: Drawn = "normal"
    place: int | Place = "layer"
    """The number of its layer, counted from the bottom; or one of `Place`."""
    has_token_rows: bool = False
    """One row per token: tensor ranks hold equally many rows, of which the last are padding."""
    transformer_engine: str | None = None
    """Its name in Transformer Engine's layers, if that is another."""
    huggingface: Mapping[Naming, tuple[str, ...]] = field(default_factory=dict)
    """Its names by naming: one, or one for each of `parts`. A naming that is missing has no such weight."""
    gguf: tuple[str, ...] = ()
    """llama.cpp's names of the tensors in `huggingface["llama"]`."""
    parts: tuple[int, ...] = ()
    """Number of rows of each stacked part, if there are several: queries, keys, values; gate, up."""
    groups: int = 1
    """Number of times the parts alternate here, with a piece of each; other formats store each part whole."""
    heads: int = 0
    """Heads of the first part, which tensor ranks may cut within a group: they then hold copies of its other parts."""

    @property
    def rows(self) -> int:
        """Rows of the matrix form."""
        return self.numel // self.columns

    @property
    def columns(self) -> int:
        return self.shape[-1] if self.is_matrix else 1

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """False for a norm or a bias."""
        return len(self.shape) > 1

    @property
    def is_cut_by_columns(self) -> bool:
        return self.is_matrix and self.cut == len(self.shape) - 1

    def in_layer(self, number: int) -> Weight:
        """The same row with whole names, as a weight of layer `number` from the bottom."""
        ours, theirs = f"{LAYERS}{number}.", f"model.layers.{number}."
        return replace(
            self,
            name=ours + self.name,
            place=number,
            transformer_engine=self.transformer_engine and ours + self.transformer_engine,
            huggingface={naming: tuple(theirs + name for name in names) for naming, names in self.huggingface.items()},
            gguf=tuple(f"blk.{number}.{name}" for name in self.gguf),
        )

    def head_cut(self, *, tensor: int) -> HeadCut | None:
        """Cut of its heads by `tensor` ranks, if these cut groups and hold copies of each other's rows."""
        cut = HeadCut(self.heads, self.groups, tensor)
        return cut if self.heads and cut.copies_groups else None

    @property
    def rows_per_head(self) -> int:
        return self.parts[0] // self.heads

    def share(self, *, tensor: int, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(offset, shape) of what tensor rank `rank` of `tensor` owns: no copies, no rows that only pad the vocabulary.

        Of the flattened parameter it is the beginning.
        """
        offset, shape = [0] * len(self.shape), list(self.shape)
        if self.cut is None:
            return tuple(offset), tuple(shape)
        first, end = (self._first(number, tensor=tensor) for number in (rank, rank + 1))
        offset[self.cut], shape[self.cut] = first, end - first
        return tuple(offset), tuple(shape)

    def held(self, *, tensor: int) -> int:
        """Numbers that each of `tensor` ranks holds, copies and padding included."""
        if self.cut is None:
            return self.numel
        heads = self.head_cut(tensor=tensor)
        held = self._padded(tensor) // tensor if heads is None else heads.packed_heads_held * self.rows_per_head
        return self.numel // self.shape[self.cut] * held

    def _first(self, rank: int, *, tensor: int) -> int:
        """First place along `cut` that a rank owns."""
        assert self.cut is not None
        heads = self.head_cut(tensor=tensor)
        if heads is not None:
            return heads.start(rank) * self.rows_per_head
        return min(self._padded(tensor) // tensor * rank, self.shape[self.cut])

    def _padded(self, tensor: int) -> int:
        assert self.cut is not None
        return padded_vocabulary(self.shape[self.cut], tensor) if self.has_token_rows else self.shape[self.cut]


def both(name: str) -> dict[Naming, tuple[str, ...]]:
    """A weight that is one tensor in either of Hugging Face's namings."""
    return {"phi3": (name,), "llama": (name,)}
