"""Learning from single answers that were liked or not, in one file: KTO (Ethayarajh et al. 2024, arXiv 2402.01306).

Where DPO needs two answers to the same prompt, KTO needs one and a thumb up or down. Its loss asks how far the model
has moved on the whole from its reference, which it estimates from mismatched answers, those to other prompts, over the
whole batch (equation 8). With r of an answer and z0 of the batch,

    r = log p(answer | prompt) - log q(answer | prompt)         p the model, q the reference
    z0 = max(0, mean of r over mismatched answers)              a number: no gradient goes through it
    loss = w_up (1 - sigmoid(beta (r - z0))) of a liked answer, w_down (1 - sigmoid(beta (z0 - r))) of another

An answer and the mismatched one lie behind their prompt as both sides of a preference pair do, so rows, attention and
the reference's log-probabilities are those of DPO.

Legend: Q answers of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megaphi.data.batch import Batch
from megaphi.data.packed.pair_rows import PairBatch, Unit, pair_batch
from megaphi.data.packed.preference_pairs import PreferencePair
from megaphi.data.packed.rows import MakeBatch
from megaphi.engine.objective import LossFunction
from megaphi.stages.preference import compared, log_probabilities


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JudgedAnswer(PreferencePair):
    """`chosen` is the answer, whatever was thought of it, and `rejected` the mismatched one."""

    liked: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedBatch(PairBatch):
    """Answers of a micro-batch."""

    liked_Q: NDArray[np.bool_]


def judged_batch(
    answers: Sequence[JudgedAnswer],
    units: Sequence[Unit],
    reference_N2: NDArray[np.float64],
    *,
    capacity: int,
    padding_token: int,
) -> MakeBatch:
    """Return the function that makes micro-batches of units of `answers`, marking those that were liked."""
    liked_N = np.array([answer.liked for answer in answers])
    make = pair_batch(units, reference_N2, capacity=capacity, padding_token=padding_token)

    def judged(rows: list[list[int]], numbers_B: NDArray[np.int64]) -> Batch:
        batch: Any = make(rows, numbers_B)
        parts = {part.name: getattr(batch, part.name) for part in fields(batch)}
        return JudgedBatch(**parts, liked_Q=liked_N[batch.numbers_Q])

    return judged


class MismatchedAnswers:
    """Measured before each update: the mean of r over mismatched answers, as `loss`."""

    names: tuple[str, ...] = ()

    def forward(self, batch: Batch, chunk: torch.nn.Module, device: torch.device) -> tuple[Tensor, LossFunction]:
        assert isinstance(batch, JudgedBatch)
        return compared(batch, chunk, device), partial(self._summed, batch)

    def _summed(self, batch: JudgedBatch, output: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return summed(ratios(batch, output)[:, 1])


@dataclass(frozen=True, kw_only=True)
class KtoObjective:
    """Mean over answers; fulfils the engine's `WholeBatchObjective`."""

    beta: float
    liked_weight: float
    disliked_weight: float
    z0: float = 0.0
    names: tuple[str, ...] = ("z0", "reward")
    unit: str = "KTO loss of an answer"
    beforehand = MismatchedAnswers()

    def knowing(self, means: Mapping[str, float]) -> KtoObjective:
        return KtoObjective(
            beta=self.beta,
            liked_weight=self.liked_weight,
            disliked_weight=self.disliked_weight,
            z0=max(0.0, means["loss"]),
        )

    def forward(self, batch: Batch, chunk: torch.nn.Module, device: torch.device) -> tuple[Tensor, LossFunction]:
        assert isinstance(batch, JudgedBatch)
        return compared(batch, chunk, device), partial(self._summed_loss, batch)

    def _summed_loss(self, batch: JudgedBatch, output: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        liked_Q = torch.from_numpy(batch.liked_Q).to(output.device)
        moved_Q = ratios(batch, output)[:, 0] - self.z0
        value_Q = torch.sigmoid(self.beta * torch.where(liked_Q, moved_Q, -moved_Q))
        loss_Q = torch.where(liked_Q, self.liked_weight, self.disliked_weight) * (1 - value_Q)
        return summed(loss_Q, torch.full_like(loss_Q, self.z0), self.beta * moved_Q)


def ratios(batch: PairBatch, output: Tensor) -> Tensor:
    """[Q, 2] r of each answer and of its mismatched one."""
    policy_Q2 = log_probabilities(batch, output)
    return policy_Q2 - torch.from_numpy(batch.reference_Q2).to(policy_Q2.device, policy_Q2.dtype)


def summed(loss_Q: Tensor, *measured: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return a micro-batch's results for the engine: the sum, the count, and both with all that is reported."""
    count = torch.tensor(len(loss_Q), device=loss_Q.device, dtype=torch.int)
    sums = torch.stack([loss_Q.detach().sum(), count, *(values_Q.detach().sum() for values_Q in measured)])
    return loss_Q.sum(), count, {"sums": sums.double()}
