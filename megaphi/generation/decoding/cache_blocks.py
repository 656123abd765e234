"""Blocks of the paged cache, reference-counted, and prefix caching.

A full block has a key: a hash over all tokens of its sequence up to its end. A sequence whose prefix has known keys
shares those blocks instead of computing them: many samples of one prompt, prompts with a common prefix, the next turn
of a conversation. A block that no sequence holds any more keeps its content and its key until it is reused, the least
recently freed first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

import numpy as np

Key = bytes


class BlockPool:
    """`count` blocks of `size` positions each, all free at first."""

    def __init__(self, count: int, *, size: int) -> None:
        self.count, self.size = count, size
        self._holders = [0] * count
        self._keys: list[Key | None] = [None] * count
        self._by_key: dict[Key, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict((block, None) for block in range(count))

    @property
    def free(self) -> int:
        """Number of blocks that no sequence holds."""
        return len(self._free)

    def needed(self, tokens: int) -> int:
        """The number of blocks that hold this many tokens."""
        return -(-tokens // self.size)

    def find(self, keys: Iterable[Key]) -> list[int]:
        """The blocks of the longest known prefix; the caller does not hold them yet."""
        found = []
        for key in keys:
            block = self._by_key.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def hold(self, blocks: Sequence[int]) -> None:
        """Share blocks that `find` returned."""
        for block in blocks:
            self._holders[block] += 1
            self._free.pop(block, None)

    def take(self) -> int:
        """Take a block for new content; its old content is evicted. The caller has made sure that one is free."""
        block, _ = self._free.popitem(last=False)
        key = self._keys[block]
        if key is not None:
            del self._by_key[key]
            self._keys[block] = None
        self._holders[block] = 1
        return block

    def give_back(self, blocks: Sequence[int]) -> None:
        """Release blocks, the later ones of a sequence first, so that prefixes are kept longest."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if not self._holders[block]:
                self._free[block] = None

    def publish(self, block: int, key: Key) -> None:
        """Let `find` find a full block; it is computed before anything reads it. The first of equal blocks is kept."""
        if key not in self._by_key and self._keys[block] is None:
            self._by_key[key] = block
            self._keys[block] = key


def block_keys(tokens: Sequence[int], *, size: int, after: Key = b"", start: int = 0) -> Iterator[Key]:
    """Keys of a sequence's full blocks from token `start` (a multiple of `size`) on; `after` is the key before it."""
    for first in range(start, len(tokens) - size + 1, size):
        content = np.array(tokens[first : first + size], dtype=np.int64).tobytes()
        after = blake2b(content, key=after, digest_size=16).digest()
        yield after
