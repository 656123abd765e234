"""Copies of key and value rows that other tensor ranks own (model/rows/head_cut.py), kept as part of the QKV matrix.

A copy has no life of its own. In the last backward pass of a step its fp32 gradient is added to the owner's, before
replicas reduce theirs, and becomes zero; in the first forward pass after an update it is fetched from the owner. So
norm, weight decay, optimizer state and checkpoints count every number once, and copies are equal to the bit. To the
optimizer a copy is what padding of the vocabulary is: numbers at the end of a parameter whose gradient is zero.

Both exchanges are one all-gather over the tensor ranks, of at most one group of each; copies are added up in the order
of the ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from torch import Tensor

from megaphi.model.rows.head_cut import HeadCut


@dataclass(frozen=True, kw_only=True, slots=True)
class Copies:
    """Rows of one parameter that are copies, or of which other ranks hold copies."""

    rows: int
    """Rows of a key and a value."""
    first: int | None
    """First row of the copy that this rank holds."""
    owner: int | None
    """The tensor rank that owns it."""
    first_owned: int
    """First of the rows that this rank owns and others hold copies of; they are those of its first group."""
    holders: tuple[int, ...]
    """The tensor ranks that do."""

    @classmethod
    def of(cls, cut: HeadCut, *, rank: int, rows_per_head: int) -> Copies:
        owner = cut.owner_of_copy(rank)
        return cls(
            rows=2 * rows_per_head,
            first=None if owner is None else cut.owned(rank) * rows_per_head,
            owner=owner,
            first_owned=cut.queries(rank)[0] * rows_per_head,
            holders=cut.holders_of_copies(rank),
        )


def copies_of(parameter: Any) -> Copies | None:
    """The copies of a parameter that has some, on this rank or another."""
    return getattr(parameter, "copies", None)


def forget_copies(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Let the copies of parameters be fetched in the next forward pass, because their owners' rows have changed."""
    for parameter in parameters:
        parameter.has_current_copies = False  # pyright: ignore[reportAttributeAccessIssue]


@torch.no_grad()
def fetch_copies(parameter: torch.nn.Parameter) -> None:
    """Fetch a parameter's copies from their owners, unless they are there. Collective over the tensor ranks."""
    copies = copies_of(parameter)
    if copies is None or getattr(parameter, "has_current_copies", False):
        return
    gathered = _from_all_ranks(parameter, copies, copies.first_owned if copies.holders else None)
    if copies.first is not None:
        assert copies.owner is not None
        parameter.narrow(0, copies.first, copies.rows).copy_(gathered[copies.owner])
    parameter.has_current_copies = True  # pyright: ignore[reportAttributeAccessIssue]


@torch.no_grad()
def return_gradients(parameter: torch.nn.Parameter, copies: Copies) -> None:
    """Add the gradients of copies to those of their owners, and set them to zero. Collective over the tensor ranks."""
    gradient: Tensor = parameter.main_grad  # pyright: ignore[reportAttributeAccessIssue]
    gathered = _from_all_ranks(gradient, copies, copies.first)
    for holder in copies.holders:
        gradient.narrow(0, copies.first_owned, copies.rows).add_(gathered[holder])
    if copies.first is not None:
        gradient.narrow(0, copies.first, copies.rows).zero_()


def _from_all_ranks(whole: Tensor, copies: Copies, first: int | None) -> tuple[Tensor, ...]:
    """Rows that each tensor rank gives, from its row `first` on; None: zeros."""
    group: Any = parallel_state.get_tensor_model_parallel_group()
    shape = (copies.rows, *whole.shape[1:])
    own = whole.new_zeros(shape) if first is None else whole.narrow(0, first, copies.rows).contiguous()
    gathered = whole.new_empty((group.size() * copies.rows, *whole.shape[1:]))  # gloo takes no added dimension
    distributed.all_gather_into_tensor(gathered, own, group=group)
    return gathered.split(copies.rows)


class CopiesFetched:
    """Mixed into a linear layer whose parameters may have copies: they are current in its forward pass."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        # Not in a hook: those of Megatron, which wait for gathered parameters, are registered later and come after.
        for parameter in self.parameters():  # pyright: ignore[reportAttributeAccessIssue]
            fetch_copies(parameter)
        return super().forward(*arguments, **named)  # pyright: ignore[reportAttributeAccessIssue]


class CopiesReturned(DistributedDataParallel):
    """Megatron's wrapper, in which gradients of copies are returned before replicas reduce a parameter's gradient."""

    def _make_backward_post_hook(self, param: torch.nn.Parameter) -> Any:
        reduce = super()._make_backward_post_hook(param)
        copies = copies_of(param)
        if copies is None:
            return reduce
        of_megatron: Any = param

        def hook(*arguments: Any) -> None:
            is_added = of_megatron.grad_added_to_main_grad
            if self.param_to_bucket_group[param].is_last_microbatch:
                if not is_added:
                    of_megatron.main_grad.add_(of_megatron.grad)
                of_megatron.grad_added_to_main_grad = True  # as Megatron's hook would say, which must not add it again
                return_gradients(param, copies)
            reduce(*arguments)
            of_megatron.grad_added_to_main_grad = is_added

        return hook
