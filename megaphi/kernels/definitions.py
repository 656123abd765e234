"""The operators in plain PyTorch: the definitions that compiled kernels are compared with and fall back to.

Arithmetic is in fp32 (fp64 for fp64 inputs) whatever the inputs' dtype, and gradients are autograd's.

Legend: S sequence, B batch, H heads, G key-value groups, N heads of a group (queries, key, value), K head size,
D width, F feed-forward, I inputs, O outputs, V this rank's part of the vocabulary, T tokens, P positions. Of a cache:
N blocks, P positions of a block, M blocks of a query, J positions of a query, R heads that share a group.
"""

from __future__ import annotations

import torch
import torch.distributed as distributed
import torch.nn.functional as functional
from torch import Tensor

from megaphi.kernels.checks import IGNORED


def exact(tensor: Tensor) -> Tensor:
    """Convert to the dtype that sums are accumulated in."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""
    wide = exact(x)
    normalised = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (normalised * exact(weight_D)).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + residual), x + residual)."""
    total = x + residual
    return rms_norm(total, weight_D, eps), total


def rotary(
    x_SBGNK: Tensor,
    cos_PK: Tensor,
    sin_PK: Tensor,
    *,
    rotated: int,
    positions_SB: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """Rotate the first `rotated` heads of each group: halves (a, b) become (a cos - b sin, b cos + a sin)."""
    if positions_SB is None:
        positions_SB = torch.arange(offset, offset + x_SBGNK.shape[0], device=x_SBGNK.device)[:, None]
    cos_SB11K, sin_SB11K = (table[positions_SB][:, :, None, None] for table in (cos_PK, sin_PK))
    turned, rest = x_SBGNK[..., :rotated, :], x_SBGNK[..., rotated:, :]
    first, second = exact(turned).chunk(2, dim=-1)
    turned = torch.cat((first * cos_SB11K - second * sin_SB11K, second * cos_SB11K + first * sin_SB11K), dim=-1)
    return torch.cat((turned.to(x_SBGNK.dtype), rest), dim=-2)


def masked_softmax(x_BHQK: Tensor, hidden: Tensor, scale: float) -> Tensor:
    """softmax(scale x) over the keys that are not hidden; zeros where a query sees none."""
    scores = (exact(x_BHQK) * scale).masked_fill(hidden, -torch.inf)
    sees_nothing = hidden.expand_as(scores).all(-1, keepdim=True)
    return scores.masked_fill(sees_nothing, 0.0).softmax(-1).masked_fill(sees_nothing, 0.0).to(x_BHQK.dtype)


def causal_softmax(x_BHQK: Tensor, scale: float) -> Tensor:
    """softmax(scale x) where query q sees the keys up to q + keys - queries: the last query sees all."""
    queries, keys = x_BHQK.shape[-2:]
    hidden = torch.ones(queries, keys, dtype=torch.bool, device=x_BHQK.device).triu(keys - queries + 1)
    return masked_softmax(x_BHQK, hidden, scale)


def paged_attention(
    query_THK: Tensor,
    keys_NPGK: Tensor,
    values_NPGK: Tensor,
    tables_TM: Tensor,
    lengths_T: Tensor,
    *,
    scale: float,
) -> Tensor:
    """Query t attends to the first lengths[t] positions of its blocks, H / G heads to each group of the cache."""
    groups, length = keys_NPGK.shape[2], lengths_T[:, None]
    place_J = torch.arange(tables_TM.shape[1] * keys_NPGK.shape[1], device=tables_TM.device)
    is_seen_TJ = place_J < length
    blocks_TM = torch.where(place_J[:: keys_NPGK.shape[1]] < length, tables_TM, 0)
    keys_TJGK, values_TJGK = (exact(cache[blocks_TM]).flatten(1, 2) for cache in (keys_NPGK, values_NPGK))
    scores_TGRJ = torch.einsum("tgrk,tjgk->tgrj", exact(query_THK).unflatten(1, (groups, -1)), keys_TJGK)
    weights_TGRJ = (scores_TGRJ * scale).masked_fill(~is_seen_TJ[:, None, None], -torch.inf).softmax(-1)
    values_TJGK = values_TJGK.masked_fill(~is_seen_TJ[:, :, None, None], 0.0)  # 0 * NaN is NaN
    return torch.einsum("tgrj,tjgk->tgrk", weights_TGRJ, values_TJGK).flatten(1, 2).to(query_THK.dtype)


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up of x = [gate | up]."""
    gate, up = exact(x).chunk(2, dim=-1)
    return (functional.silu(gate) * up).to(x.dtype)


def add_product(total_OI: Tensor, grad_TO: Tensor, x_TI: Tensor) -> None:
    """total += grad^T x: in one dtype the bits of autograd's own sum, else of operands in the total's dtype."""
    total_OI += grad_TO.t().to(total_OI.dtype) @ x_TI.to(total_OI.dtype)


def add_rows(total_VD: Tensor, rows_T: Tensor, grad_TD: Tensor) -> None:
    """total[rows] += grad: in one dtype the bits of autograd's own sum."""
    count = len(total_VD)
    total_VD += torch.ops.aten.embedding_dense_backward(grad_TD.to(total_VD.dtype), rows_T, count, -1, False)


def swiglu_linear(x: Tensor, weight_DF: Tensor) -> Tensor:
    """swiglu(x) @ weight^T."""
    return functional.linear(swiglu(x), weight_DF)


def cross_entropy(
    logits_TV: Tensor,
    labels_T: Tensor,
    *,
    group: distributed.ProcessGroup | None = None,
    z_weight: float = 0.0,
) -> Tensor:
    """lse - logit[label] + z_weight lse^2 for every token, lse = log sum exp over all ranks; 0 where ignored."""
    first = 0 if group is None else group.rank() * logits_TV.shape[1]
    wide = exact(logits_TV)
    column = labels_T - first
    is_ours = (column >= 0) & (column < wide.shape[1])
    picked = wide.gather(1, torch.where(is_ours, column, 0)[:, None])[:, 0]
    lse, target = wide.logsumexp(1), torch.where(is_ours, picked, 0.0)
    if group is not None and group.size() > 1:
        lse, target = _with_other_ranks(lse, group).logsumexp(0), _with_other_ranks(target, group).sum(0)
    return torch.where(labels_T == IGNORED, 0.0, lse - target + z_weight * lse.square())


def _with_other_ranks(own_T: Tensor, group: distributed.ProcessGroup) -> Tensor:
    """[ranks, T], this rank's row with its gradient: every rank differentiates by its own logits only."""
    rows = [torch.empty_like(own_T) for _ in range(group.size())]
    distributed.all_gather(rows, own_T.detach().contiguous(), group=group)
    rows[group.rank()] = own_T
    return torch.stack(rows)


def linear_cross_entropy(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    labels_T: Tensor,
    *,
    group: distributed.ProcessGroup | None = None,
    vocabulary: int | None = None,
    z_weight: float = 0.0,
) -> Tensor:
    """cross_entropy(hidden @ weight^T, labels); ids from `vocabulary` on take no part."""
    logits_TV = functional.linear(hidden_TD, weight_VD)
    first = 0 if group is None else group.rank() * len(weight_VD)
    end = first + len(weight_VD)
    if vocabulary is not None and end > vocabulary:
        is_padding_V = torch.arange(first, end, device=weight_VD.device) >= vocabulary
        logits_TV = logits_TV.masked_fill(is_padding_V, torch.finfo(logits_TV.dtype).min)
    return cross_entropy(logits_TV, labels_T, group=group, z_weight=z_weight)
