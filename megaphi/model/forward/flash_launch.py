"""One launch of flash attention for parts of any lengths, in which the last query of each part sees all of its keys.

Lengths and places are decided on the host, once for a pass: the launch asks the device nothing, and makes nothing of
the size of the scores. It is torch's `varlen_attn`, for GPUs and 16-bit numbers; elsewhere `Attention`s compute each
part by their core product.

Legend: T tokens of a pass, N parts, H query heads, G key-value groups, K head size, L keys in the order of the parts
that see them.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.attention.varlen as varlen
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from megaphi.model.forward.head_groups import HeadGroups
from megaphi.model.forward.to_device import to_device

_HEAD_SIZES = range(8, 257, 8)
"""Sizes of heads that flash attention takes; `scaled_dot_product_attention` pads others, the launch does not."""
_PARAMETERS = set(inspect.signature(varlen.varlen_attn).parameters)
_HAS_WINDOWS = "window_size" in _PARAMETERS  # from torch 2.11 on
_NAMES_GROUPS = "enable_gqa" in _PARAMETERS  # torch 2.11 passes groups on to its kernel without being told


def is_launched(query: Tensor) -> bool:
    """True where flash attention takes all parts at once: not where `model.attention_backend` rules it out."""
    allowed = torch.backends.cuda.flash_sdp_enabled() and query.shape[-1] in _HEAD_SIZES
    return _HAS_WINDOWS and allowed and query.is_cuda and query.dtype != torch.float32


@dataclass(frozen=True, slots=True)
class FlashLaunch:
    """The lengths of all parts, and where their keys lie."""

    query_ends: Tensor
    """int32 [N + 1], on the device, from 0."""
    key_ends: Tensor
    """The same, of the keys in L."""
    longest_query: int
    longest_key: int
    seen_L: Tensor | None
    """Rows of the keys that are given, in the order of L, some of them several times; None: as they are given."""

    @classmethod
    def of(cls, parts_N6: NDArray[np.int32], *, device: torch.device) -> FlashLaunch:
        """The launch for rows of `segments.parts_of`."""
        prefix_N, own_N = parts_N6[:, 3] - parts_N6[:, 2], parts_N6[:, 5] - parts_N6[:, 4]
        seen = None
        if not (parts_N6[:, :2] == parts_N6[:, 4:]).all() or prefix_N.any():
            seen = np.concatenate([np.arange(*stretch) for stretch in parts_N6[:, 2:].reshape(-1, 2).tolist()])
        return cls.of_lengths(parts_N6[:, 1] - parts_N6[:, 0], prefix_N + own_N, seen, device=device)

    @classmethod
    def of_lengths(
        cls, queries_N: ArrayLike, keys_N: ArrayLike, seen_L: Sequence[int] | NDArray | None, *, device: torch.device
    ) -> FlashLaunch:
        """The launch for parts of so many queries and keys, which lie behind each other."""
        queries_N, keys_N = np.asarray(queries_N), np.asarray(keys_N)
        query_ends, key_ends = (
            to_device(np.concatenate(([0], lengths_N.cumsum())).astype(np.int32), device)
            for lengths_N in (queries_N, keys_N)
        )
        seen = None if seen_L is None else to_device(np.asarray(seen_L, dtype=np.int64), device)
        return cls(query_ends, key_ends, int(queries_N.max()), int(keys_N.max()), seen)

    def __call__(
        self, query_THK: Tensor, key_TGK: Tensor, value_TGK: Tensor, *, scale: float, groups: HeadGroups
    ) -> Tensor:
        """Attended values [T, H K]."""
        if self.seen_L is not None:
            key_TGK, value_TGK = key_TGK[self.seen_L], value_TGK[self.seen_L]
        key_TGK, value_TGK = groups.repeated(key_TGK), groups.repeated(value_TGK)
        grouped: Any = {"enable_gqa": query_THK.shape[1] != key_TGK.shape[1]} if _NAMES_GROUPS else {}
        attended_THK = varlen.varlen_attn(
            query_THK,
            key_TGK,
            value_TGK,
            self.query_ends,
            self.key_ends,
            self.longest_query,
            self.longest_key,
            scale=scale,
            window_size=(-1, 0),  # causal, the last query of a part sees all its keys
            **grouped,
        )
        assert isinstance(attended_THK, Tensor)
        return attended_THK.flatten(1)
