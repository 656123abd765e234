"""Prefix-aware dispatch: a request goes to the least busy replica, or to a hardly busier one that holds its prefix.

A prefix is known by the keys of its blocks, the same as in the cache (`cache_blocks.py`). Replicas are identical, and a
sequence does not depend on its neighbours: the choice changes when an answer comes, never what it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from megaphi.generation.decoding.cache_blocks import Key, block_keys

BLOCK_TOKENS = 16
REMEMBERED_BLOCKS = 1 << 16
"""Blocks whose replica is remembered; the oldest are forgotten."""
WORTH_REQUESTS = 4
"""Requests that a replica with the prefix may have beyond those of the least busy one."""


class Dispatcher:
    """Chooses replicas, and remembers which of them computed which prefix."""

    def __init__(self) -> None:
        self._replica_of: OrderedDict[Key, int] = OrderedDict()

    def choose(self, prompt: Sequence[int], busy: Sequence[int]) -> int:
        """A replica for `prompt`, of those that have `busy[replica]` requests."""
        if len(busy) == 1:
            return 0
        keys = list(block_keys(prompt, size=BLOCK_TOKENS))
        least = min(range(len(busy)), key=lambda replica: busy[replica])
        known = next((self._replica_of[key] for key in reversed(keys) if key in self._replica_of), least)
        chosen = known if busy[known] <= busy[least] + WORTH_REQUESTS else least
        for key in keys:
            self._replica_of[key] = chosen
            self._replica_of.move_to_end(key)
        while len(self._replica_of) > REMEMBERED_BLOCKS:
            self._replica_of.popitem(last=False)
        return chosen
