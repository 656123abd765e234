"""One optimizer step, and one forward pass without gradients, over Megatron's pipeline schedules.

Every rank of a model copy reads the same micro-batches by itself, so nothing is broadcast. What is minimised is the
mean of an objective (objective.py) over all that it counts in all replicas and micro-batches: micro-batches return
sums, gradients are divided once by the global count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as distributed
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megaphi.data.batch import Batch
from megaphi.engine.objective import NextToken, Objective
from megaphi.engine.optimizer import set_rates
from megaphi.engine.training_model import TrainingModel, whole_parameters

NEXT_TOKEN = NextToken()


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What one optimizer step gave, equal on every rank."""

    loss: float
    """Mean over all that the objective counts, before the update; for tokens the cross-entropy in nats."""
    gradient_norm: float
    """Global L2 norm before clipping."""
    trained: int
    """What was counted: tokens, or pairs."""
    means: dict[str, float] = field(default_factory=dict)
    """Of the objective's further sums."""


def train_step(
    model: TrainingModel, batches: Sequence[Batch], *, learning_rate: float, objective: Objective = NEXT_TOKEN
) -> StepResult:
    """Forward, backward, clip, update on this replica's micro-batches of the step."""
    activity = model.world.activity
    activity.enter("forward_backward")
    for chunk in model.chunks:
        chunk.zero_grad_buffer()
    model.optimizer.zero_grad()
    reports = run_schedule(model, batches, objective, forward_only=False)
    activity.enter("optimizer")
    set_rates(model.optimizer, learning_rate=learning_rate, weight_decay=model.run.optimizer.weight_decay)
    _, gradient_norm, _ = model.optimizer.step()
    assert gradient_norm is not None  # measured in every step, see optimizer.py
    activity.enter("exchange")
    loss, counted, means = _over_all_ranks(reports, objective, device=model.world.device)
    return StepResult(loss=loss, gradient_norm=float(gradient_norm), trained=counted, means=means)


def evaluate(model: TrainingModel, batches: Sequence[Batch], objective: Objective = NEXT_TOKEN) -> dict[str, float]:
    """Means over all replicas' `batches`, without gradients: `loss`, and the objective's further sums by name."""
    with reading(model):
        reports = run_schedule(model, batches, objective, forward_only=True)
    loss, _, means = _over_all_ranks(reports, objective, device=model.world.device)
    return {"loss": loss, **means}


@contextmanager
def reading(model: TrainingModel) -> Iterator[None]:
    """Whole parameters, no gradients, nothing recomputed."""
    with whole_parameters(model), torch.no_grad():
        for chunk in model.chunks:
            chunk.eval()
        try:
            yield
        finally:
            for chunk in model.chunks:
                chunk.train()


def run_schedule(
    model: TrainingModel, batches: Sequence[Batch], objective: Objective, *, forward_only: bool
) -> list[dict[str, Tensor]]:
    """Megatron's schedule (1F1B, interleaved or plain); the last stage returns one report per micro-batch."""

    def forward_step(batches: Iterator[Batch], chunk: torch.nn.Module) -> tuple[Tensor, Callable[..., Any]]:
        return objective.forward(next(batches), chunk, model.world.device)

    iterators = [iter(batches) for _ in model.chunks]
    interleaved = len(model.chunks) > 1
    return get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iterators if interleaved else iterators[0],
        model=model.chunks if interleaved else model.chunks[0],  # pyright: ignore[reportArgumentType]
        num_microbatches=len(batches),
        seq_length=batches[0].tokens_BS.shape[1],
        micro_batch_size=batches[0].tokens_BS.shape[0],
        forward_only=forward_only,
    )


def _over_all_ranks(
    reports: list[dict[str, Tensor]], objective: Objective, *, device: torch.device
) -> tuple[float, int, dict[str, float]]:
    """(mean loss, count, means of the further sums) of the whole step; every model copy counts once."""
    total = torch.zeros(2 + len(objective.names), dtype=torch.float64, device=device)
    if reports and parallel_state.get_tensor_model_parallel_rank() == 0:
        total += torch.stack([report["sums"] for report in reports]).sum(0)
    distributed.all_reduce(total)
    loss, counted, *sums = total.tolist()
    count = max(counted, 1)
    means = {name: value / count for name, value in zip(objective.names, sums, strict=True)}
    return loss / count, int(counted), means
