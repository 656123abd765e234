"""A paged key-value cache: keys and values of many sequences in blocks of one size, and one forward pass over it.

A pass is a flat row of T tokens: first decodes, each of which attends by itself, then prefill chunks of several tokens.
Only attention knows which token belongs to which sequence: it stores the new keys and values in their rows of the
cache, then lets every token attend to the blocks of its own sequence. Linear layers see [T, 1, D] and nothing else.

A token and the draft of those after it are decodes with one table and rising lengths: all keys of a pass are stored
before any of it attends, and the kernel gives a query the same result whatever else is in the call.

Legend: T tokens of a pass, N blocks, P positions of a block, R = N P rows, M blocks of a sequence, H query heads, G
key-value groups, K head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megaphi.kernels.paged_attention import paged_attention
from megaphi.model.forward.attention import Attention, CoreProduct, causally_visible
from megaphi.model.forward.flash_launch import FlashLaunch, is_launched


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
    first_key: int
    last_key: int
    """Keys [first_key, last_key) of all that the chunks of the pass see: those in the cache already, and its own."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """The prefill chunks of a pass; each sees its sequence up to itself. They follow each other in the flat row."""

    chunks: Sequence[PrefillChunk]
    launch: FlashLaunch
    """All of them at once, with the rows of the cache that they see."""

    @classmethod
    def of(
        cls, lengths: Sequence[int], seen: Sequence[NDArray[np.int64]], *, start: int, device: torch.device
    ) -> Prefill:
        """Chunks of so many tokens, the first at `start` of the flat row; `seen`: what rows of the cache each sees."""
        keys = [len(rows) for rows in seen]
        ends = accumulate(lengths, initial=start)
        key_ends = accumulate(keys, initial=0)
        chunks = [
            PrefillChunk(start=first, end=end, first_key=first_key, last_key=last_key)
            for (first, end), (first_key, last_key) in zip(pairwise(ends), pairwise(key_ends), strict=True)
        ]
        return cls(chunks, FlashLaunch.of_lengths(lengths, keys, np.concatenate(seen), device=device))


@dataclass(frozen=True, kw_only=True, slots=True)
class PagedPass(Attention):
    """Attention of the tokens of many sequences, each to the cached tokens of its own sequence and to itself."""

    cache: PagedCache
    cache_rows_T: Tensor
    """int64: block * P + position, where each token's key and value are stored."""
    decodes: int
    """Number of tokens at the front that attend by themselves; those of `prefill` follow."""
    tables: Tensor
    """int32 [decodes, M]: blocks of each decode's sequence; entries beyond its last block are ignored."""
    lengths: Tensor
    """int32 [decodes]: positions that each of them attends to, itself included."""
    prefill: Prefill | None
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
            decode_THK = core.head_groups.padded(query_SBHK[: self.decodes, 0])
            heads_THK = paged_attention(decode_THK, keys_NPGK, values_NPGK, self.tables, self.lengths, scale=core.scale)
            attended.append(core.head_groups.without_padding(heads_THK).flatten(1).unsqueeze(1))
        if self.prefill is not None:
            keys_RGK, values_RGK = keys_NPGK.flatten(0, 1), values_NPGK.flatten(0, 1)
            attended.append(_prefilled(query_SBHK[:, 0], keys_RGK, values_RGK, self.prefill, core)[:, None])
        return torch.cat(attended)


def _prefilled(query_THK: Tensor, keys_RGK: Tensor, values_RGK: Tensor, prefill: Prefill, core: CoreProduct) -> Tensor:
    """Attended values [tokens of prefill, H K]; the keys and values are the rows of the cache."""
    if core.is_flash and is_launched(query_THK):
        queries_THK = query_THK[prefill.chunks[0].start :]
        return prefill.launch(queries_THK, keys_RGK, values_RGK, scale=core.scale, groups=core.head_groups)
    found, seen_L = [], prefill.launch.seen_L
    assert seen_L is not None
    for chunk in prefill.chunks:
        query = query_THK[chunk.start : chunk.end, None]
        rows = seen_L[chunk.first_key : chunk.last_key]
        key, value = keys_RGK[rows, None], values_RGK[rows, None]
        is_whole = len(key) == len(query)
        visible = None if is_whole else causally_visible(len(query), len(key), device=key.device)
        found.append(core.product(query, key, value, visible).squeeze(1))
    return torch.cat(found)
