"""The objective of a training step: the forward pass of a micro-batch, and the loss summed over it.

Every objective returns sums and a count (of tokens, of pairs), never means: the gradient of a step is divided once by
the count over all micro-batches and replicas. An objective whose loss needs a mean over the whole global batch, such as
KTO's estimate of a divergence, is a `WholeBatchObjective` and names what to measure first.

Legend: B batch, S sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from megatron.core import parallel_state
from torch import Tensor

from megaphi.data.batch import Batch
from megaphi.model.forward.attention import Attention, Causal, CausalAcrossRanks
from megaphi.model.forward.context import ForwardContext
from megaphi.model.forward.segments import Segments, document_segments
from megaphi.model.forward.targets import Labels

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
            return Segments(torch.from_numpy(document_segments(batch.document_ids_BS)).to(device, non_blocking=True))
        if parallel_state.get_context_parallel_world_size() > 1:
            return CausalAcrossRanks(parallel_state.get_context_parallel_group())
        return Causal()


def _summed_loss(loss_mask_BS: Tensor, loss_BS: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    loss_sum = (loss_BS * loss_mask_BS).sum()
    tokens = loss_mask_BS.sum()
    report = torch.stack((loss_sum.detach().double(), tokens.double()))
    return loss_sum, tokens.to(torch.int), {"sums": report}


def local(values_BS: np.ndarray, device: torch.device) -> Tensor:
    """Copy to the device; under context parallelism only chunks r and 2n-1-r of the sequence's 2n."""
    ranks = parallel_state.get_context_parallel_world_size()
    if ranks > 1:
        rank = parallel_state.get_context_parallel_rank()
        chunks = np.split(values_BS, 2 * ranks, axis=1)
        values_BS = np.concatenate((chunks[rank], chunks[2 * ranks - 1 - rank]), axis=1)
    return torch.from_numpy(np.ascontiguousarray(values_BS)).to(device, non_blocking=True)
