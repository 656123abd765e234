"""One optimizer step, and one forward pass without gradients, over Megatron's pipeline schedules.

Every rank of a model copy reads the same micro-batches by itself, so nothing is broadcast; under context parallelism
a rank then keeps its two chunks of every sequence. The loss is the mean over all trained tokens of all replicas and
micro-batches: micro-batches return sums, gradients are divided once by the global token count.

Legend: B batch, S sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megaphi.data.batch import Batch
from megaphi.engine.optimizer import set_rates
from megaphi.engine.training_model import TrainingModel, whole_parameters
from megaphi.model.attention import document_boundaries


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What one optimizer step gave, equal on every rank."""

    loss: float
    """Mean cross-entropy in nats per trained token, before the update."""
    gradient_norm: float
    """Global L2 norm before clipping."""
    trained_tokens: int


def train_step(model: TrainingModel, batches: Sequence[Batch], *, learning_rate: float) -> StepResult:
    """Forward, backward, clip, update on this replica's micro-batches of the step."""
    for chunk in model.chunks:
        chunk.zero_grad_buffer()
    model.optimizer.zero_grad()
    reports = _run_schedule(model, batches, forward_only=False)
    set_rates(model.optimizer, learning_rate=learning_rate, weight_decay=model.run.optimizer.weight_decay)
    _, gradient_norm, _ = model.optimizer.step()
    assert gradient_norm is not None  # measured in every step, see optimizer.py
    loss_sum, tokens = _over_all_ranks(reports, device=model.world.device)
    return StepResult(loss=loss_sum / max(tokens, 1), gradient_norm=float(gradient_norm), trained_tokens=tokens)


def evaluate(model: TrainingModel, batches: Sequence[Batch]) -> float:
    """Mean cross-entropy in nats per trained token over all replicas' `batches`, without gradients."""
    with whole_parameters(model), torch.no_grad():
        for chunk in model.chunks:
            chunk.eval()
        reports = _run_schedule(model, batches, forward_only=True)
        for chunk in model.chunks:
            chunk.train()
    loss_sum, tokens = _over_all_ranks(reports, device=model.world.device)
    return loss_sum / max(tokens, 1)


def _run_schedule(model: TrainingModel, batches: Sequence[Batch], *, forward_only: bool) -> list[dict[str, Tensor]]:
    """Megatron's schedule (1F1B, interleaved or plain); the last stage returns one report per micro-batch."""
    iterators = [iter(batches) for _ in model.chunks]
    interleaved = len(model.chunks) > 1
    return get_forward_backward_func()(
        forward_step_func=_forward_step(model.world.device),
        data_iterator=iterators if interleaved else iterators[0],
        model=model.chunks if interleaved else model.chunks[0],  # pyright: ignore[reportArgumentType]
        num_microbatches=len(batches),
        seq_length=batches[0].tokens_BS.shape[1],
        micro_batch_size=batches[0].tokens_BS.shape[0],
        forward_only=forward_only,
    )


def _forward_step(device: torch.device) -> Callable[..., Any]:
    def forward_step(batches: Iterator[Batch], chunk: torch.nn.Module) -> tuple[Tensor, Callable[..., Any]]:
        batch = next(batches)
        tokens_BS = _local(batch.tokens_BS, device)
        boundaries = None
        if batch.document_ids_BS is not None:
            boundaries = torch.from_numpy(document_boundaries(batch.document_ids_BS)).to(device, non_blocking=True)
        output = chunk(
            input_ids=tokens_BS,
            position_ids=_positions(batch, device),
            attention_mask=boundaries,
            labels=_local(batch.labels_BS, device),
        )
        return output, partial(_summed_loss, _local(batch.loss_mask_BS, device))

    return forward_step


def _summed_loss(loss_mask_BS: Tensor, loss_BS: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(sum of the masked losses, number of trained tokens, the same two for the report)."""
    loss_sum = (loss_BS * loss_mask_BS).sum()
    tokens = loss_mask_BS.sum()
    report = torch.stack((loss_sum.detach().double(), tokens.double()))
    return loss_sum, tokens.to(torch.int), {"sum_and_tokens": report}


def _positions(batch: Batch, device: torch.device) -> Tensor:
    if batch.positions_BS is not None:
        return _local(batch.positions_BS, device)
    rows, length = batch.tokens_BS.shape
    return _local(np.tile(np.arange(length), (rows, 1)), device)


def _local(values_BS: np.ndarray, device: torch.device) -> Tensor:
    """On the device, and under context parallelism only the chunks r and 2n-1-r of 2n along the sequence."""
    ranks = parallel_state.get_context_parallel_world_size()
    if ranks > 1:
        rank = parallel_state.get_context_parallel_rank()
        chunks = np.split(values_BS, 2 * ranks, axis=1)
        values_BS = np.concatenate((chunks[rank], chunks[2 * ranks - 1 - rank]), axis=1)
    return torch.from_numpy(np.ascontiguousarray(values_BS)).to(device, non_blocking=True)


def _over_all_ranks(reports: list[dict[str, Tensor]], *, device: torch.device) -> tuple[float, int]:
    """Loss sum and token count of the whole step; every model copy counts once."""
    total = torch.zeros(2, dtype=torch.float64, device=device)
    if reports and parallel_state.get_tensor_model_parallel_rank() == 0:
        total += torch.stack([report["sum_and_tokens"] for report in reports]).sum(0)
    distributed.all_reduce(total)
    return total[0].item(), int(total[1].item())
