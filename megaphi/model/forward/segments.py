"""Attention within segments of the batch: isolated documents, and several answers behind one copy of their prompt.

Every segment attends causally to itself and, where it has one, to all of its prefix, another stretch of tokens. On a
GPU all segments share one launch of flash attention; elsewhere each is a product of its own. No [S, S] mask is made,
and no masked score is computed.

Legend: S sequence, B batch, T = B S tokens, row after row, N segments, H query heads, G key-value groups, K head size.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.attention.varlen as varlen
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor

from megaphi.model.forward.attention import Attention, CoreProduct, causally_visible

# Flash attention over documents of any lengths, on a GPU; older versions of torch cannot group queries there.
_VARLEN_GROUPS = {"enable_gqa", "window_size"} <= set(inspect.signature(varlen.varlen_attn).parameters)


@dataclass(frozen=True, slots=True)
class Segments(Attention):
    """Attention of every token to its segment up to itself, and to the segment's prefix."""

    table_N4: Tensor
    """int32, on the device: (start, end, start of prefix, end of prefix) of every segment, as positions in T.

    Segments follow each other without gaps, and every row begins with one. An empty prefix ends where it starts.
    """

    def attend(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor, core: CoreProduct) -> Tensor:
        sequence, batch = query_SBHK.shape[:2]
        query_THK, key_TGK, value_TGK = (
            part.transpose(0, 1).flatten(0, 1) for part in (query_SBHK, key_SBGK, value_SBGK)
        )
        if _VARLEN_GROUPS and query_SBHK.is_cuda and query_SBHK.dtype != torch.float32:
            attended_TD = self._flash(query_THK, key_TGK, value_TGK, longest=sequence, scale=core.scale)
        else:
            parts = (query_THK[:, None], key_TGK[:, None], value_TGK[:, None])
            attended_TD = torch.cat([_segment(*parts, row, core) for row in self.table_N4.tolist()]).squeeze(1)
        return attended_TD.view(batch, sequence, -1).transpose(0, 1)

    def _flash(self, query_THK: Tensor, key_TGK: Tensor, value_TGK: Tensor, *, longest: int, scale: float) -> Tensor:
        """Attend in all segments by one launch; the keys of a prefix are repeated for each segment that sees it."""
        starts_N, ends_N, prefix_starts_N, prefix_ends_N = self.table_N4.unbind(1)
        query_ends = key_ends = torch.cat((starts_N, ends_N[-1:]))
        if bool((prefix_ends_N > prefix_starts_N).any()):
            stretches = self.table_N4[:, [2, 3, 0, 1]].view(-1, 2).tolist()
            seen = torch.cat([torch.arange(*stretch, device=key_TGK.device) for stretch in stretches])
            key_TGK, value_TGK = key_TGK[seen], value_TGK[seen]
            keys_N = prefix_ends_N - prefix_starts_N + ends_N - starts_N
            key_ends = functional.pad(keys_N.cumsum(0, dtype=torch.int32), (1, 0))
        attended_THK = varlen.varlen_attn(
            query_THK,
            key_TGK,
            value_TGK,
            query_ends,
            key_ends,
            longest,
            longest,
            scale=scale,
            window_size=(-1, 0),  # causal, the last query of a segment sees all its keys
            enable_gqa=query_THK.shape[1] != key_TGK.shape[1],
        )
        assert isinstance(attended_THK, Tensor)
        return attended_THK.flatten(1)


def _segment(query_T1HK: Tensor, key_T1GK: Tensor, value_T1GK: Tensor, segment: list[int], core: CoreProduct) -> Tensor:
    start, end, prefix_start, prefix_end = segment
    query, key, value = query_T1HK[start:end], key_T1GK[start:end], value_T1GK[start:end]
    if prefix_start == prefix_end:
        return core.product(query, key, value, None)
    key = torch.cat((key_T1GK[prefix_start:prefix_end], key))
    value = torch.cat((value_T1GK[prefix_start:prefix_end], value))
    return core.product(query, key, value, causally_visible(len(query), len(key), device=query.device))


def document_segments(document_ids_BS: NDArray[np.integer]) -> NDArray[np.int32]:
    """Table of isolated documents, int32 [N, 4]: each is a segment with an empty prefix."""
    starts_BS = np.ones(document_ids_BS.shape, dtype=bool)
    starts_BS[:, 1:] = document_ids_BS[:, 1:] != document_ids_BS[:, :-1]
    starts_N = np.flatnonzero(starts_BS)
    ends_N = np.append(starts_N[1:], starts_BS.size)
    return np.stack((starts_N, ends_N, starts_N, starts_N), axis=1).astype(np.int32)
