"""Gradients of weights that several tensor ranks hold: which of them must be added up over the ranks.

How much of such a gradient one rank computes depends on where the weight is used, and its row says so
(`Weight.gradient`). Megatron adds up the gradients of parameters marked `sequence_parallel`, under sequence parallelism
alone, and by their names those of the norms of queries and keys. It knows of no others: what is left is marked here
when a model is built, and added up after Megatron's. Of a matrix cut within its key-value groups, ranks hold copies
of parts (copied_groups/exchange.py), which are marked here too.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as distributed
from megatron.core import parallel_state
from torch import Tensor

from megaphi.errors import InputError
from megaphi.model.copied_groups.exchange import Copies
from megaphi.model.initialize import parameter_shares
from megaphi.model.padded_model import PaddedModel
from megaphi.model.rows.weight_row import Weight
from megaphi.model.weights import in_any_layer


def mark_gradients(chunk: PaddedModel) -> None:
    """Mark the parameters whose gradients are portions. Raises InputError for a row that does not say which they are.

    Where there is one tensor rank every gradient is whole.
    """
    ranks, rank = (
        parallel_state.get_tensor_model_parallel_world_size(),
        parallel_state.get_tensor_model_parallel_rank(),
    )
    if ranks == 1:
        return
    for share in parameter_shares(chunk):
        weight, parameter = share.weight, share.parameter
        if problem := _problem_with(weight, chunk):
            name = f"{in_any_layer(weight.name)} of model.variant={chunk.architecture.variant}"
            raise InputError(f"{name}: {problem} (model/rows/weight_row.py)")
        if (cut := weight.head_cut(tensor=ranks)) is not None:
            copies = Copies.of(cut, rank=rank, rows_per_head=weight.rows_per_head)
            parameter.copies = copies  # pyright: ignore[reportAttributeAccessIssue]
        if weight.cut is None:
            sequence_parallel = chunk.config.sequence_parallel and weight.gradient != "whole"
            parameter.sequence_parallel = sequence_parallel  # pyright: ignore[reportAttributeAccessIssue]
            is_left = weight.gradient == "part" and not sequence_parallel and not _is_head_norm(weight, chunk)
            parameter.is_added_up_by_us = is_left  # pyright: ignore[reportAttributeAccessIssue]


def _problem_with(weight: Weight, chunk: PaddedModel) -> str | None:
    if weight.cut is not None:
        return "it is cut over the tensor ranks, so its row takes no gradient=" if weight.gradient else None
    if weight.gradient is None:
        return "every tensor rank holds all of it, and its row does not say how the gradients are joined: set gradient="
    if weight.gradient != "part" and _is_head_norm(weight, chunk):
        return f"Megatron adds up the gradients of norms of heads: its row needs gradient=part, not {weight.gradient}"
    return None


def _is_head_norm(weight: Weight, chunk: PaddedModel) -> bool:
    """Megatron's own condition, in `finalize_model_grads`."""
    return chunk.config.qk_layernorm and ("q_layernorm" in weight.name or "k_layernorm" in weight.name)


def add_up_gradients(chunks: Iterable[torch.nn.Module]) -> None:
    """Add up the portions that Megatron leaves apart. Collective over the tensor ranks; call it after Megatron's."""
    gradients: list[Tensor] = [
        parameter.main_grad  # pyright: ignore[reportAttributeAccessIssue]
        for chunk in chunks
        for parameter in chunk.parameters()
        if getattr(parameter, "is_added_up_by_us", False)
    ]
    if not gradients:
        return
    sums = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(sums, group=parallel_state.get_tensor_model_parallel_group())
    for gradient, total in zip(gradients, sums.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))
