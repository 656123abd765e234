"""A paged key-value cache: keys and values of many sequences in blocks of one size, and one forward pass over it.

A pass is a flat row of T tokens: first decodes, one token of a sequence each, then prefill chunks of several tokens.
Only attention knows which token belongs to which sequence: it stores the new keys and values in their rows of the
cache, then lets every token attend to the blocks of its own sequence. Linear layers see [T, 1, D] and nothing else.
Megatron hands the pass through its layers where an attention mask would be.

Legend: T tokens of a pass, N blocks, P positions of a block, M blocks of a sequence, H query heads, G key-value groups,
K head size, W rows of logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megaphi.kernels.paged_attention import paged_attention


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


Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Attention [S, 1, H K] from query [S, 1, H, K], keys and values [L, 1, G, K], and the visible keys (None: causal)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedPass:
    """What attention and the output layer need to know about one pass."""

    cache: PagedCache
    cache_rows_T: Tensor
    """int64: block * P + position, where each token's key and value are stored."""
    decodes: int
    """Tokens at the front that are alone of their sequence; the prefill chunks follow."""
    tables: Tensor
    """int32 [decodes, M]: blocks of each decode's sequence, any number where it has fewer."""
    lengths: Tensor
    """int32 [decodes]: positions that each of them attends to, itself included."""
    prefill_chunks: Sequence[PrefillChunk]
    logit_rows_W: Tensor
    """int64: tokens of the flat row whose logits are needed."""

    def attend(
        self, layer_number: int, query: Tensor, key: Tensor, value: Tensor, *, scale: float, attend: Attend
    ) -> Tensor:
        """query [T, 1, H, K], key and value [T, 1, G, K] -> context [T, 1, H K]."""
        keys_NPGK, values_NPGK = self.cache.layers[layer_number]
        for stored, new in ((keys_NPGK, key), (values_NPGK, value)):
            stored.view(-1, *stored.shape[2:]).index_copy_(0, self.cache_rows_T, new.squeeze(1))
        context = []
        if self.decodes:
            decode_THK = query[: self.decodes, 0]
            attended = paged_attention(decode_THK, keys_NPGK, values_NPGK, self.tables, self.lengths, scale=scale)
            context.append(attended.flatten(1).unsqueeze(1))
        for chunk in self.prefill_chunks:
            tokens = slice(chunk.start, chunk.end)
            if not chunk.cached_tokens:
                context.append(attend(query[tokens], key[tokens], value[tokens], None))
                continue
            earlier = (
                stored[chunk.blocks].flatten(0, 1)[: chunk.cached_tokens, None] for stored in (keys_NPGK, values_NPGK)
            )
            keys, values = (torch.cat((old, new[tokens])) for old, new in zip(earlier, (key, value), strict=True))
            count = chunk.end - chunk.start
            visible = torch.ones(count, len(keys), dtype=torch.bool, device=keys.device).tril(chunk.cached_tokens)
            context.append(attend(query[tokens], keys, values, visible))
        return torch.cat(context)
