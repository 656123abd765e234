"""Keys and values of many texts in blocks of equal size, and one forward pass over parts of several of them.

A pass is a flat row of T tokens: one each of the texts that are being continued, longer pieces of prompts that are
being read. Only attention knows which token belongs to which text: it stores the new keys and values in their slots of
the cache, then lets every token see the blocks of its own text. Linear layers see [T, 1, D] and nothing else. Megatron
hands the pass through its layers where an attention mask would be.

Legend: T tokens of a pass, N blocks, P positions of a block, M blocks of a text, H query heads, G key-value groups,
K head size, W rows whose logits are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megaphi.kernels.paged_attention import paged_attention


@dataclass(frozen=True, slots=True)
class PagedCache:
    """Keys and values [N, P, G, K] of every layer of this rank, by Megatron's number of the layer."""

    layers: dict[int, tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Several tokens of one text in a pass."""

    start: int
    end: int
    """Place in the flat row."""
    before: int
    """Tokens of the text that are in the cache already."""
    blocks: Tensor
    """int64 [M]: the text's blocks, as many as hold `before` tokens."""


Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Of query [S, 1, H, K], keys and values [L, 1, G, K], and which keys are visible (None: causal), [S, 1, H K]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedPass:
    """What attention and the output layer must know of one pass."""

    cache: PagedCache
    slots_T: Tensor
    """int64: block * P + position, where each token's key and value go."""
    singles: int
    """So many tokens come first that are alone of their text; the pieces follow."""
    tables: Tensor
    """int32 [singles, M]: blocks of each single token's text, any number where it has fewer."""
    lengths: Tensor
    """int32 [singles]: positions that each of them sees, itself included."""
    pieces: Sequence[Piece]
    wanted_W: Tensor
    """int64: tokens after which logits are wanted."""

    def attend(
        self, layer_number: int, query: Tensor, key: Tensor, value: Tensor, *, scale: float, attend: Attend
    ) -> Tensor:
        """query [T, 1, H, K], key and value [T, 1, G, K] -> context [T, 1, H K]."""
        keys_NPGK, values_NPGK = self.cache.layers[layer_number]
        for stored, new in ((keys_NPGK, key), (values_NPGK, value)):
            stored.view(-1, *stored.shape[2:]).index_copy_(0, self.slots_T, new.squeeze(1))
        context = []
        if self.singles:
            single_THK = query[: self.singles, 0]
            attended = paged_attention(single_THK, keys_NPGK, values_NPGK, self.tables, self.lengths, scale=scale)
            context.append(attended.flatten(1).unsqueeze(1))
        for piece in self.pieces:
            part = slice(piece.start, piece.end)
            if not piece.before:
                context.append(attend(query[part], key[part], value[part], None))
                continue
            earlier = (stored[piece.blocks].flatten(0, 1)[: piece.before, None] for stored in (keys_NPGK, values_NPGK))
            keys, values = (torch.cat((old, new[part])) for old, new in zip(earlier, (key, value), strict=True))
            tokens = piece.end - piece.start
            visible = torch.ones(tokens, len(keys), dtype=torch.bool, device=keys.device).tril(piece.before)
            context.append(attend(query[part], keys, values, visible))
        return torch.cat(context)
