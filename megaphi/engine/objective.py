"""The objective of a training step: how a micro-batch goes through the model, and the sums that come out of it.

Every objective returns sums and a count (of tokens, of pairs), never means: the gradient of a step is divided once by
the count over all micro-batches and replicas. One whose loss needs a mean over the whole global batch, such as KTO's
estimate of a divergence, names what to measure first: a `WholeBatchObjective`.

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
"""From what the last stage gives to (sum of the losses, count, {"sums": fp64 [2 + further]})."""


class Objective(Protocol):
    """One way to train."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sums that are reported after the loss and the count."""
        ...

    def forward(self, batch: Batch, chunk: torch.nn.Module, device: torch.device) -> tuple[Tensor, LossFunction]:
        """Run one micro-batch through this rank's stage: `chunk(tokens_BS, ForwardContext(...))`."""
        ...


@runtime_checkable
class WholeBatchObjective(Objective, Protocol):
    """An objective whose loss needs means over the whole global batch: all micro-batches of all replicas.

    Before every update the step's micro-batches go through the model once more, without gradients; in validation the
    whole of the held-out data does.
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
    """Cross-entropy of the next token over all that the loss mask keeps: pretraining and supervised fine-tuning."""

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
        """Within documents where the batch tells them apart, or causal in the row, on as many ranks as hold it."""
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
    """On the device, and under context parallelism only the chunks r and 2n-1-r of 2n along the sequence."""
    ranks = parallel_state.get_context_parallel_world_size()
    if ranks > 1:
        rank = parallel_state.get_context_parallel_rank()
        chunks = np.split(values_BS, 2 * ranks, axis=1)
        values_BS = np.concatenate((chunks[rank], chunks[2 * ranks - 1 - rank]), axis=1)
    return torch.from_numpy(np.ascontiguousarray(values_BS)).to(device, non_blocking=True)
