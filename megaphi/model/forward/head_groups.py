"""The key-value groups of one rank's query heads, where these may be unequally many: a map that the host decides once.

Kernels of attention want equally many queries for every key. So keys and values are repeated until that holds (4, 4
and 2 queries: each key for 2 of them), or, where keys are a cache that must not grow, queries are added that nobody
reads.

Legend: G key-value groups, H query heads, K head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, slots=True)
class HeadGroups:
    """Number of queries of each group, in order."""

    queries: tuple[int, ...]

    @property
    def is_even(self) -> bool:
        return len(set(self.queries)) == 1

    @property
    def key_of_each(self) -> list[int]:
        """The group of each key, when keys are repeated so that all serve equally many queries."""
        served = math.gcd(*self.queries)
        return [group for group, queries in enumerate(self.queries) for _ in range(queries // served)]

    def repeated(self, heads_GK: Tensor) -> Tensor:
        """Keys or values `[..., G, K]`, repeated so that all serve equally many queries."""
        if self.is_even:
            return heads_GK
        groups = heads_GK.unbind(-2)
        return torch.stack([groups[group] for group in self.key_of_each], -2)

    def padded(self, query_HK: Tensor) -> Tensor:
        """Queries `[..., H, K]` with zeros added until every group has equally many."""
        if self.is_even:
            return query_HK
        parts = query_HK.split(self.queries, -2)
        return torch.cat([pad(part, (0, 0, 0, max(self.queries) - part.shape[-2])) for part in parts], -2)

    def without_padding(self, heads_HK: Tensor) -> Tensor:
        """The inverse of `padded`."""
        if self.is_even:
            return heads_HK
        parts = heads_HK.split(max(self.queries), -2)
        return torch.cat([part.narrow(-2, 0, number) for part, number in zip(parts, self.queries, strict=True)], -2)


def split_groups(packed_NK: Tensor, groups: HeadGroups) -> tuple[Tensor, Tensor, Tensor]:
    """Queries `[..., H, K]`, keys and values `[..., G, K]`, from packed heads with [its queries; its key; its value] of
    every group; packed heads after those are left out."""
    sizes: Sequence[int] = [size for queries in groups.queries for size in (queries, 1, 1)]
    parts = packed_NK.narrow(-2, 0, sum(sizes)).split(list(sizes), -2)
    query, key, value = (torch.cat(parts[kind::3], -2) for kind in range(3))
    return query, key, value
