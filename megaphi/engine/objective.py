"""The objective of a training step: the forward pass of a micro-batch, and the loss summed over it.

Every objective returns sums and a count (of tokens, of pairs), never means: the gradient of a step is divided once by
the count over all micro-batches, replicas and context ranks. Each context rank returns those of the tokens that it
holds; where a loss needs more than these, as that of a pair of answers does, all return the whole micro-batch's
(`Batch.context_ranks_know_all`), from values that `over_context_ranks` has summed. An objective whose loss needs a mean
over the whole global batch, such as KTO's estimate of a divergence, is a `WholeBatchObjective` and names what to
measure first.

Legend: B batch, S sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from megatron.core import parallel_state
from numpy.typing import NDArray
from torch import Tensor

from megaphi.data.batch import Batch
from megaphi.model.forward.attention import Attention, Causal
from megaphi.model.forward.context import ForwardContext
from megaphi.model.forward.context_chunks import places_of, sum_over_ranks
from megaphi.model.forward.segments import CausalAcrossRanks, Segments, document_segments, row_segments
from megaphi.model.forward.targets import Labels
from megaphi.model.forward.to_device import to_device

LossFunction = Callable[[Tensor], tuple[Tensor, Tensor, dict[str, Tensor]]]
"""Maps the last pipeline stage's output to (sum of the losses, count, {"sums": fp64 [2 + further sums]})."""


class Objective(Protocol):
    """The quantity that training minimises."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sums that are reported after the loss and the count."""
        ...

    def forward(self, batch: Batch, chunk: torch.nn.Module, device: torch.device) -> tuple[Tensor, LossFunction]:
        """Run one micro-batch through this rank's pipeline stage: `chunk(tokens_BS, ForwardContext(...))`."""
        ...


@runtime_checkable
class WholeBatchObjective(Objective, Protocol):
    """An objective whose loss needs means over the whole global batch: all micro-batches of all replicas.

    Before every update the step's micro-batches pass through the model once more, without gradients; in validation all
    of the held-out data does.
    """

    @property
    def beforehand(self) -> Objective:
        """The objective that is measured first. Its means are sums over all ranks in fp64, divided by its count."""
        ...

    def knowing(self, means: Mapping[str, float]) -> Objective:
        """Return the objective of this step: the same `names`; `means` has `loss` and the `names` of `beforehand`."""
        ...


def unit_of(objective: Objective) -> str:
    """Unit of the loss, for its plot; an objective may declare it as `unit`."""
    return getattr(objective, "unit", "loss")


class NextToken:
    """Cross-entropy of the next token, of the tokens that the loss mask keeps: pretraining and fine-tuning."""

    names: tuple[str, ...] = ()
    unit = "cross-entropy, nats per token"

    def forward(self, batch: Batch, chunk: torch.nn.Module, device: torch.device) -> tuple[Tensor, LossFunction]:
        context = ForwardContext(
            attention=self.attention(batch, device),
            positions_BS=None if batch.positions_BS is None else local(batch.positions_BS, device),
            targets=Labels(local(batch.labels_BS, device)),
        )
        output = chunk(local(batch.tokens_BS, device), context)
        return output, partial(_summed_loss, local(batch.loss_mask_BS, device))

    def attention(self, batch: Batch, device: torch.device) -> Attention:
        """Attention within documents, where the batch has their ids, or else causal attention in the row."""
        if batch.document_ids_BS is not None:
            return attention_within(document_segments(batch.document_ids_BS), batch, device)
        if parallel_state.get_context_parallel_world_size() > 1:
            rows, length = batch.tokens_BS.shape
            return CausalAcrossRanks(attention_within(row_segments(rows, length=length), batch, device))
        return Causal()


def _summed_loss(loss_mask_BS: Tensor, loss_BS: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    loss_sum = (loss_BS * loss_mask_BS).sum()
    tokens = loss_mask_BS.sum()
    report = torch.stack((loss_sum.detach().double(), tokens.double()))
    return loss_sum, tokens.to(torch.int), {"sums": report}


def local(values_BS: np.ndarray, device: torch.device) -> Tensor:
    """Copy to the device, of every row the places that this context rank holds."""
    if parallel_state.get_context_parallel_world_size() > 1:
        values_BS = np.take(values_BS, local_places(values_BS.shape[1]), axis=1)
    return to_device(np.ascontiguousarray(values_BS), device)


def local_places(length: int) -> NDArray[np.int64]:
    """Places of a row of `length` tokens that this context rank holds, ascending."""
    ranks = parallel_state.get_context_parallel_world_size()
    rank = parallel_state.get_context_parallel_rank() if ranks > 1 else 0
    return places_of(rank, ranks=ranks, length=length)


def attention_within(table_N4: NDArray[np.integer], batch: Batch, device: torch.device) -> Segments:
    """Attention within the segments of a micro-batch, whose rows context ranks may share; the table is of all of it."""
    ranks = parallel_state.get_context_parallel_world_size()
    group = parallel_state.get_context_parallel_group() if ranks > 1 else None
    return Segments.of(table_N4, length=batch.tokens_BS.shape[1], device=device, group=group)


def over_context_ranks(values: Tensor) -> Tensor:
    """Sum what the context ranks have of a micro-batch, on each of them; gradients flow back to all. Collective."""
    if parallel_state.get_context_parallel_world_size() == 1:
        return values
    return sum_over_ranks(values, parallel_state.get_context_parallel_group())
