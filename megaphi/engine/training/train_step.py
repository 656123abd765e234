"""One optimizer step, and one forward pass without gradients, over Megatron's pipeline schedules.

Every rank of a model copy reads the same micro-batches by itself, so nothing is broadcast. A step minimises the mean of
an objective (objective.py) over everything that it counts in all replicas and micro-batches: micro-batches return sums,
and gradients are divided once by the global count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megaphi.data.batch import Batch
from megaphi.engine.model.optimizer import apply_update, prepared_square, set_rates
from megaphi.engine.model.training_model import TrainingModel, whole_parameters
from megaphi.engine.objective import NextToken, Objective, WholeBatchObjective
from megaphi.model.copied_groups.exchange import forget_copies

NEXT_TOKEN = NextToken()


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """Result of one optimizer step, equal on every rank."""

    loss: float
    """Mean of the objective before the update; of `NextToken` the cross-entropy in nats per token."""
    gradient_norm: float
    """Global L2 norm before clipping."""
    trained: int
    """Number of targets trained on: tokens, or pairs."""
    means: dict[str, float] = field(default_factory=dict)
    """Means of the objective's other sums, by name."""


Accept = Callable[[StepResult], bool]
"""Maps a result to whether the weights are updated; the same on every rank."""


def accept_all(result: StepResult) -> bool:
    """Update the weights after every step."""
    return True


def train_step(
    model: TrainingModel,
    batches: Sequence[Batch],
    *,
    learning_rate: float,
    objective: Objective = NEXT_TOKEN,
    accept: Accept = accept_all,
) -> StepResult:
    """Forward and backward pass over this replica's micro-batches, and, if `accept`ed, clipping and update. Collective.

    Losses and the gradients' norm are reduced together, before the update: it costs one collective and one question to
    the device.
    """
    activity = model.world.activity
    activity.enter("forward_backward")
    objective = _knowing_the_batch(model, [batches], objective)
    for chunk in model.chunks:
        chunk.zero_grad_buffer()
    model.optimizer.zero_grad()
    reports = run_schedule(model, batches, objective, forward_only=False)
    activity.enter("optimizer")
    square = prepared_square(model.optimizer)
    activity.enter("exchange")
    (sums,), squares = _over_all_ranks(reports, objective, [batches], square)
    activity.enter("optimizer")
    means = means_of(sums)
    loss, trained, norm = means.pop("loss"), int(sums["count"]), math.sqrt(squares)
    result = StepResult(loss=loss, gradient_norm=norm, trained=trained, means=means)
    if accept(result):
        set_rates(model.optimizer, learning_rate=learning_rate, weight_decay=model.run.optimizer.weight_decay)
        apply_update(model.optimizer, gradient_norm=norm)
    forget_copies(parameter for module in model.modules for parameter in module.parameters())
    return result


def evaluate(
    model: TrainingModel, parts: Sequence[Sequence[Batch]], objective: Objective = NEXT_TOKEN
) -> list[dict[str, float]]:
    """Evaluate each part over all replicas' micro-batches, without gradients. Collective.

    Args:
        parts: this replica's micro-batches of each part; all replicas have equally many parts, and equally many
            micro-batches in all.

    Returns:
        For each part `loss`, `count` and the objective's other sums by name. They are sums: parts can be added.
    """
    batches = [batch for part in parts for batch in part]
    objective = _knowing_the_batch(model, parts, objective)
    with reading(model):
        reports = run_schedule(model, batches, objective, forward_only=True)
    nothing = torch.zeros((), device=model.world.device)
    return _over_all_ranks(reports, objective, parts, nothing)[0]


def _knowing_the_batch(model: TrainingModel, parts: Sequence[Sequence[Batch]], objective: Objective) -> Objective:
    """The objective for these micro-batches; a `WholeBatchObjective` measures them first. Collective."""
    if not isinstance(objective, WholeBatchObjective):
        return objective
    (sums,) = evaluate(model, [[batch for part in parts for batch in part]], objective.beforehand)
    return objective.knowing(means_of(sums))


def means_of(sums: Mapping[str, float]) -> dict[str, float]:
    """`loss` and the other sums, divided by `count`."""
    return {name: value / max(sums["count"], 1) for name, value in sums.items() if name != "count"}


@contextmanager
def reading(model: TrainingModel) -> Iterator[None]:
    """Context for reading a model: gathered parameters, no gradients, no recomputation."""
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
    """Run Megatron's schedule (1F1B, interleaved or plain); the last pipeline stage gets one report per micro-batch."""

    def forward_step(batches: Iterator[Batch], chunk: torch.nn.Module) -> tuple[Tensor, Callable[..., Any]]:
        return objective.forward(next(batches), chunk, model.world.device)

    iterators = [iter(batches) for _ in model.chunks]
    interleaved = len(model.chunks) > 1
    model.config.microbatch_group_size_per_vp_stage = model.world.layout.micro_batch_group(len(batches))
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
    reports: list[dict[str, Tensor]], objective: Objective, parts: Sequence[Sequence[Batch]], square: Tensor
) -> tuple[list[dict[str, float]], float]:
    """Sums over all ranks of the reports of each part, and of `square` as fp32, in one reduction.

    Args:
        reports: one per micro-batch, on the last pipeline stage; every model copy counts once.
        parts: the micro-batches of each part.
        square: this rank's share of a number.
    """
    names = ("loss", "count", *objective.names)
    totals = torch.zeros(len(parts) * len(names) + 1, dtype=torch.float64, device=square.device)
    totals[-1] = square
    if reports and parallel_state.get_tensor_model_parallel_rank() == 0:
        is_first = parallel_state.get_context_parallel_rank() == 0
        sums = torch.stack(
            [
                report["sums"] * (is_first or not batch.context_ranks_know_all)
                for report, batch in zip(reports, chain.from_iterable(parts), strict=True)
            ]
        )
        totals[:-1] += torch.cat([part.sum(0) for part in sums.split([len(part) for part in parts])])
    distributed.all_reduce(totals)
    *found, squares = totals.tolist()
    rows = [found[first : first + len(names)] for first in range(0, len(found), len(names))]
    return [dict(zip(names, row, strict=True)) for row in rows], float(np.float32(squares))
