"""Attention within segments: isolated documents, answers behind a copy of their prompt, rows of several context ranks.

Every segment attends causally to itself and, where it has one, to all of its prefix, another stretch of tokens. A
context rank holds two chunks of every row: it attends from the parts of segments in them to the keys of whole segments,
which it gathers. On a GPU all parts share one launch of flash attention, and nothing of the size of the scores is made;
elsewhere each is a product of its own, with a mask only where it sees more keys than it has queries.

Legend: S sequence, B batch, T = B S tokens, row after row, N segments or parts of them, H query heads, G key-value
groups, K head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megaphi.model.forward.attention import Attention, Causal, CoreProduct, causally_visible
from megaphi.model.forward.context_chunks import chunks_of, gather_rows
from megaphi.model.forward.flash_launch import FlashLaunch, is_launched


@dataclass(frozen=True, slots=True)
class Segments(Attention):
    """Attention of every token to its segment up to itself, and to the segment's prefix."""

    parts: list[list[int]]
    """Rows of `parts_of`."""
    launch: FlashLaunch
    group: Any = None
    """The context ranks that share the rows; None: this one alone."""

    @classmethod
    def of(cls, table_N4: NDArray[np.integer], *, length: int, device: torch.device, group: Any = None) -> Self:
        """Attention within the segments of a table.

        Args:
            table_N4: (start, end, start of prefix, end of prefix) of every segment, as positions in T. Segments follow
                each other without gaps, and every row begins with one. An empty prefix ends where it starts.
            length: S, of whole rows.
            group: the context ranks that share the rows; each is given the whole table.
        """
        rank, ranks = (0, 1) if group is None else (group.rank(), group.size())
        parts_N6 = parts_of(table_N4, length=length, rank=rank, ranks=ranks)
        return cls(parts_N6.tolist(), FlashLaunch.of(parts_N6, device=device), group)

    @property
    def context_ranks(self) -> int:
        return 1 if self.group is None else self.group.size()

    def attend(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor, core: CoreProduct) -> Tensor:
        sequence, batch = query_SBHK.shape[:2]
        if self.group is not None:
            key_SBGK, value_SBGK = gather_rows(torch.stack((key_SBGK, value_SBGK), 1), self.group).unbind(1)
        query_THK, key_TGK, value_TGK = (
            part.transpose(0, 1).flatten(0, 1) for part in (query_SBHK, key_SBGK, value_SBGK)
        )
        if core.is_flash and is_launched(query_SBHK):
            attended_TD = self.launch(query_THK, key_TGK, value_TGK, scale=core.scale, groups=core.head_groups)
        else:
            operands = (query_THK[:, None], key_TGK[:, None], value_TGK[:, None])
            attended_TD = torch.cat([_part(*operands, part, core) for part in self.parts]).squeeze(1)
        return attended_TD.view(batch, sequence, -1).transpose(0, 1)


@dataclass(frozen=True, slots=True)
class CausalAcrossRanks(Causal):
    """Causal attention in rows that context ranks share: every row is one segment.

    Megatron's own local attention does not support this.
    """

    rows: Segments

    @property
    def context_ranks(self) -> int:
        return self.rows.context_ranks

    def attend(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor, core: CoreProduct) -> Tensor:
        return self.rows.attend(query_SBHK, key_SBGK, value_SBGK, core)


def _part(query_T1HK: Tensor, key_T1GK: Tensor, value_T1GK: Tensor, part: list[int], core: CoreProduct) -> Tensor:
    start, end, prefix_start, prefix_end, key_start, key_end = part
    query, key, value = query_T1HK[start:end], key_T1GK[key_start:key_end], value_T1GK[key_start:key_end]
    if prefix_start < prefix_end:
        key = torch.cat((key_T1GK[prefix_start:prefix_end], key))
        value = torch.cat((value_T1GK[prefix_start:prefix_end], value))
    if len(query) == len(key):
        return core.product(query, key, value, None)
    return core.product(query, key, value, causally_visible(len(query), len(key), device=query.device))


def parts_of(table_N4: NDArray[np.integer], *, length: int, rank: int = 0, ranks: int = 1) -> NDArray[np.int32]:
    """The parts of segments that a context rank holds, int32 [N, 6], in the order of its tokens.

    Each is (start, end of its queries, start, end of the prefix, start, end of its keys): queries as positions in the
    rank's own T, prefix and keys as positions in that of whole rows. Keys begin with the segment, and end with the
    part's last query.

    Args:
        table_N4: see `Segments.of`.
        length: S, of whole rows.
    """
    table_N4 = np.asarray(table_N4)
    if ranks == 1:
        return table_N4[:, [0, 1, 2, 3, 0, 1]].astype(np.int32)
    chunk = length // (2 * ranks)
    starts_N, ends_N = table_N4[:, 0], table_N4[:, 1]
    rows_N = starts_N // length
    found = []
    for number, place in enumerate(chunks_of(rank, ranks=ranks)):
        first_N = rows_N * length + place * chunk  # of the chunk in whole rows, and on this rank
        local_N = (2 * rows_N + number) * chunk
        from_N, to_N = np.maximum(starts_N, first_N), np.minimum(ends_N, first_N + chunk)
        moved_N = local_N - first_N
        parts = (from_N + moved_N, to_N + moved_N, table_N4[:, 2], table_N4[:, 3], starts_N, to_N)
        found.append(np.stack(parts, axis=1)[from_N < to_N])
    parts_N6 = np.concatenate(found)
    return parts_N6[np.argsort(parts_N6[:, 0], kind="stable")].astype(np.int32)


def document_segments(document_ids_BS: NDArray[np.integer]) -> NDArray[np.int32]:
    """Table of isolated documents, int32 [N, 4]: each is a segment with an empty prefix."""
    starts_BS = np.ones(document_ids_BS.shape, dtype=bool)
    starts_BS[:, 1:] = document_ids_BS[:, 1:] != document_ids_BS[:, :-1]
    starts_N = np.flatnonzero(starts_BS)
    ends_N = np.append(starts_N[1:], starts_BS.size)
    return np.stack((starts_N, ends_N, starts_N, starts_N), axis=1).astype(np.int32)


def row_segments(rows: int, *, length: int) -> NDArray[np.int32]:
    """Table of whole rows: each is one segment."""
    return document_segments(np.zeros((rows, length), dtype=np.int32))
