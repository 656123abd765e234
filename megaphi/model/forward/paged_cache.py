"""A paged key-value cache: keys and values of many sequences in blocks of one size, and one forward pass over it.

A pass is a flat row of T tokens: first decodes, each of which attends by itself, then prefill chunks of several tokens.
Only attention knows which token belongs to which sequence: it stores the new keys and values in their rows of the
cache, then lets every token attend to the blocks of its own sequence. Linear layers see [T, 1, D] and nothing else.

A token and the draft of those after it are decodes with one table and rising lengths: all keys of a pass are stored
before any of it attends, and the kernel gives a query the same result whatever else is in the call.

Legend: T tokens of a pass, N blocks, P positions of a block, M blocks of a sequence, H query heads, G key-value groups,
K head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megaphi.kernels.paged_attention import paged_attention
from megaphi.model.forward.attention import Attention, CoreProduct, causally_visible


@dataclass(frozen=True, slots=True)
class PagedCache:
    """Keys and values [N, P, G, K] of every layer of this rank, by Megatron's layer number."""

    layers: dict[int, tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefillChunk:
    """Several tokens of one sequence in a pass."""

    start: int
    end: int
    """Tokens [start, end) of the flat row."""
    cached_tokens: int
    """Tokens of the sequence that are in the cache already."""
    blocks: Tensor
    """int64 [M]: the sequence's blocks, as many as hold `cached_tokens`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PagedPass(Attention):
    """Attention of the tokens of many sequences, each to the cached tokens of its own sequence and to itself."""

    cache: PagedCache
    cache_rows_T: Tensor
    """int64: block * P + position, where each token's key and value are stored."""
    decodes: int
    """Number of tokens at the front that attend by themselves; the prefill chunks follow."""
    tables: Tensor
    """int32 [decodes, M]: blocks of each decode's sequence; entries beyond its last block are ignored."""
    lengths: Tensor
    """int32 [decodes]: positions that each of them attends to, itself included."""
    prefill_chunks: Sequence[PrefillChunk]
    copied_rows_2C: Tensor | None = None
    """int64: rows of the cache to copy before anything is stored, and the rows to copy them to."""

    def attend(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor, core: CoreProduct) -> Tensor:
        """Store the new keys and values, then attend. The pass is one row: S = T and B = 1."""
        keys_NPGK, values_NPGK = self.cache.layers[core.layer_number]
        for stored, new in ((keys_NPGK, key_SBGK), (values_NPGK, value_SBGK)):
            rows = stored.view(-1, *stored.shape[2:])
            if self.copied_rows_2C is not None:
                source_C, target_C = self.copied_rows_2C
                rows.index_copy_(0, target_C, rows[source_C])
            rows.index_copy_(0, self.cache_rows_T, new.squeeze(1))
        attended = []
        if self.decodes:
            decode_THK = query_SBHK[: self.decodes, 0]
            heads_THK = paged_attention(decode_THK, keys_NPGK, values_NPGK, self.tables, self.lengths, scale=core.scale)
            attended.append(heads_THK.flatten(1).unsqueeze(1))
        for chunk in self.prefill_chunks:
            tokens = slice(chunk.start, chunk.end)
            query, key, value = query_SBHK[tokens], key_SBGK[tokens], value_SBGK[tokens]
            visible = None
            if chunk.cached_tokens:
                earlier = (
                    stored[chunk.blocks].flatten(0, 1)[: chunk.cached_tokens, None]
                    for stored in (keys_NPGK, values_NPGK)
                )
                key, value = (torch.cat((old, new)) for old, new in zip(earlier, (key, value), strict=True))
                visible = causally_visible(len(query), len(key), device=key.device)
            attended.append(core.product(query, key, value, visible))
        return torch.cat(attended)
