"""Query heads cut over tensor ranks that need not divide the key-value groups: who holds which, and who owns it.

Rank r of T holds heads [r H/T, (r+1) H/T), and the key and the value of every group of theirs. A group whose heads lie
on several ranks belongs to the last of them, and the others hold copies. So of the matrix, in which each group is
[its queries; its key; its value], every rank owns consecutive rows, and the one group that it may hold a copy of is its
last. Phi-4's 40 heads in 10 groups on 4 ranks (q: a rank's queries of a group, +: owned, c: a copy):

    rank 0: group 0 qqqq+, 1 qqqq+, 2 qqc     rank 1: group 2 qq+, 3 qqqq+, 4 qqqq+     rank 2: 5 qqqq+ ...

Numbers here are those of packed heads: a query, a key or a value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HeadCut:
    """`heads` query heads in `groups` groups, cut over `tensor` ranks, which divide the heads."""

    heads: int
    groups: int
    tensor: int

    @property
    def copies_groups(self) -> bool:
        """False where every group lies on one rank."""
        return self.groups % self.tensor != 0

    @property
    def groups_held(self) -> int:
        """Groups of the rank that holds most; the others have room for as many, so that all ranks are alike."""
        return max(len(self.queries(rank)) for rank in range(self.tensor))

    @property
    def packed_heads_held(self) -> int:
        """Packed heads that every rank has room for."""
        return self._per_rank + 2 * self.groups_held

    def queries(self, rank: int) -> tuple[int, ...]:
        """Number of the rank's query heads in each of its groups, in order."""
        first, end = rank * self._per_rank, (rank + 1) * self._per_rank
        groups = range(first // self._per_group, -(-end // self._per_group))
        starts = [group * self._per_group for group in groups]
        return tuple(min(end, start + self._per_group) - max(first, start) for start in starts)

    def keys_of_kernel(self, rank: int) -> int:
        """Number of keys that a kernel of attention takes: repeated where groups have unequally many queries."""
        queries = self.queries(rank)
        return len(queries) if len({*queries}) == 1 else self._per_rank // math.gcd(*queries)

    def start(self, rank: int) -> int:
        """First packed head of the whole matrix that the rank owns; it owns those up to the next rank's."""
        group, query = divmod(rank * self._per_rank, self._per_group)
        return group * (self._per_group + 2) + query

    def owned(self, rank: int) -> int:
        """Packed heads that the rank owns: the first that it holds."""
        return self.start(rank + 1) - self.start(rank)

    def owner_of_copy(self, rank: int) -> int | None:
        """The rank that owns the last group of this rank, if that is another."""
        group = self._first_group(rank) + len(self.queries(rank)) - 1
        owner = ((group + 1) * self._per_group - 1) // self._per_rank
        return None if owner == rank else owner

    def holders_of_copies(self, rank: int) -> tuple[int, ...]:
        """Ranks that hold copies of this rank's first group."""
        return tuple(other for other in range(rank) if self.owner_of_copy(other) == rank)

    @property
    def _per_rank(self) -> int:
        return self.heads // self.tensor

    @property
    def _per_group(self) -> int:
        return self.heads // self.groups

    def _first_group(self, rank: int) -> int:
        return rank * self._per_rank // self._per_group
