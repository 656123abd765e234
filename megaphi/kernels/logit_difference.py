"""The difference of two tokens' logits at one position: all that a preference between two single tokens needs.

    margin = h . (w_chosen - w_rejected)          h a hidden state, w rows of the output matrix

log p(chosen) - log p(rejected) is the same number, because the softmax's normaliser cancels: two of the vocabulary's
100,352 rows are read. Ranks that hold other rows contribute zeros.

Legend: P pairs, D width, V this rank's part of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.autograd.function import once_differentiable

from megaphi.kernels.checks import check_shape
from megaphi.kernels.linear import added_up, sum_for


def logit_difference(
    hidden_PD: Tensor,
    weight_VD: Tensor,
    chosen_P: Tensor,
    rejected_P: Tensor,
    *,
    group: distributed.ProcessGroup | None = None,
) -> Tensor:
    """Margins [P] in fp32, equal on every rank of `group`.

    Args:
        weight_VD: this rank's rows of the output matrix, the same number on each rank.
        chosen_P: token ids, int64.

    Raises:
        ValueError: shapes do not fit.
    """
    for name, tokens in (("chosen", chosen_P), ("rejected", rejected_P)):
        check_shape(name, tokens, (len(hidden_PD),), what="one token per pair")
    check_shape("hidden", hidden_PD, (len(hidden_PD), weight_VD.shape[1]), what="pairs by width")
    return _LogitDifference.apply(hidden_PD, weight_VD, chosen_P, rejected_P, group)  # pyright: ignore


class _LogitDifference(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_PD: Tensor,
        weight_VD: Tensor,
        chosen_P: Tensor,
        rejected_P: Tensor,
        group: distributed.ProcessGroup | None,
    ) -> Tensor:
        first = 0 if group is None else group.rank() * len(weight_VD)
        sides = [_held_here(tokens_P - first, len(weight_VD)) for tokens_P in (chosen_P, rejected_P)]
        (chosen, is_here), (rejected, is_there) = sides
        weights_PD = weight_VD[chosen].float() * is_here - weight_VD[rejected].float() * is_there
        margins_P = (hidden_PD.float() * weights_PD).sum(-1)
        if group is not None and group.size() > 1:
            distributed.all_reduce(margins_P, group=group)
        ctx.save_for_backward(hidden_PD, weights_PD, chosen, is_here, rejected, is_there)
        ctx.weight = weight_VD
        return margins_P

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden_PD, weights_PD, chosen, is_here, rejected, is_there = ctx.saved_tensors
        grad_P1 = gradients[0][:, None]
        total_VD = sum_for(ctx.weight)
        step_PD = (grad_P1 * hidden_PD.float()).to(total_VD.dtype)
        total_VD.index_add_(0, chosen, step_PD * is_here)
        total_VD.index_add_(0, rejected, step_PD * is_there, alpha=-1)
        grad_weight_VD = added_up(ctx.weight, total_VD)
        return (grad_P1 * weights_PD).to(hidden_PD.dtype), grad_weight_VD, None, None, None


def _held_here(rows_P: Tensor, held: int) -> tuple[Tensor, Tensor]:
    """Return (row numbers, 0 for those of other ranks; [P, 1] whether this rank holds the row)."""
    is_here_P = (rows_P >= 0) & (rows_P < held)
    return torch.where(is_here_P, rows_P, 0), is_here_P[:, None]
