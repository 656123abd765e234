"""Rows of the embedding, whose gradient is added to Megatron's fp32 buffer row by row.

    y = W[token],   W.main_grad[token] += grad_y

Autograd would make a gradient of the whole matrix for every micro-batch, zeros but for a few thousand rows, in the
weight's dtype. Where tensor ranks share the vocabulary, tokens of other ranks give zeros.

Legend: V this rank's part of the vocabulary, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.autograd.function import once_differentiable

from megaphi.kernels import definitions
from megaphi.kernels.linear import added_up, sum_for


def embedding(tokens: Tensor, weight_VD: Tensor, *, first: int | None = None) -> Tensor:
    """Rows [..., D] of the tokens [...]; `first` is the id of this rank's first row, None if it holds them all."""
    if first is None:
        return _Embedding.apply(tokens, weight_VD)  # pyright: ignore[reportReturnType]
    is_elsewhere = (tokens < first) | (tokens >= first + len(weight_VD))
    rows: Any = _Embedding.apply((tokens - first).masked_fill(is_elsewhere, 0), weight_VD)
    return rows.masked_fill(is_elsewhere[..., None], 0.0)


def add_rows(total_VD: Tensor, rows_T: Tensor, grad_TD: Tensor) -> None:
    """total[rows] += grad, in the dtype of the total; a row may occur several times."""
    if total_VD.device.type == "cpu":
        definitions.add_rows(total_VD, rows_T, grad_TD)
    else:  # sorted by row: always in the same order
        total_VD.index_put_((rows_T,), grad_TD.to(total_VD.dtype), accumulate=True)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight_VD: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.weight = weight_VD  # the very parameter, as in linear.py
        return functional.embedding(rows, weight_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (rows,) = ctx.saved_tensors
        total_VD = sum_for(ctx.weight)
        add_rows(total_VD, rows.flatten(), gradients[0].reshape(-1, total_VD.shape[1]))
        return None, added_up(ctx.weight, total_VD)
