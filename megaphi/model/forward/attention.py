"""Variants of attention, each a small class that owns its `attend`.

Here is plain causal attention in one rank. `segments.py` has isolated documents, shared prefixes, and rows that the
ranks of a context parallel group share; `paged_cache.py` the passes of generation. A variant is given the core product,
softmax(q k^T / sqrt(K) + mask) v by `scaled_dot_product_attention` or by its definition (`model.attention`), and
decides which keys a query may see. It makes no [S, S] mask unless it must.

A variant of your own (a sliding window, a prefix LM) is one class like these, made by your objective; nothing else has
to know it (tests/model/own_variants.py).

Legend: S queries, L keys, B batch, H query heads, G key-value groups, K head size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from megaphi.model.forward.head_groups import HeadGroups


class CoreProduct(Protocol):
    """A layer's implementation of the attention product."""

    layer_number: int
    """Megatron's, from 1 through all pipeline stages."""
    scale: float
    """Factor of q k^T."""
    is_flash: bool
    """True if flash attention may take the place of `product`."""
    head_groups: HeadGroups
    """The groups of the queries; they may have unequally many."""

    def product(self, query_SBHK: Tensor, key_LBGK: Tensor, value_LBGK: Tensor, visible_SL: Tensor | None) -> Tensor:
        """Attended values `[S, B, H K]`.

        `visible_SL` is True where a query may see a key; None: causal, with as many keys as queries.
        """
        ...


class Attention(ABC):
    """One variant of attention for one forward pass; the same object serves every layer."""

    @property
    def context_ranks(self) -> int:
        """Number of ranks that share a sequence; the model refuses a pass with another number than its own."""
        return 1

    @abstractmethod
    def attend(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor, core: CoreProduct) -> Tensor:
        """Attended values `[S, B, H K]` of the tokens of this context rank; rotary positions are already applied."""


class Causal(Attention):
    """Every token sees the row up to itself."""

    def attend(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor, core: CoreProduct) -> Tensor:
        return core.product(query_SBHK, key_SBGK, value_SBGK, None)


def causally_visible(queries: int, keys: int, *, device: torch.device) -> Tensor:
    """Causal mask, bool `[queries, keys]`, in which the last query sees every key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
