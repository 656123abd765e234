"""Preference optimisation as an objective of the engine.

The model gives cross-entropies of graded tokens and margins of single tokens. Sums per side, differences from the
reference model and the loss are computed from them here. `ReferencePass` runs the same micro-batches for the
log-probabilities alone: before training the model is its own reference model.

Legend: R graded tokens, P pairs of single tokens, Q pairs of the micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from megaphi.data.batch import Batch
from megaphi.data.packed.pair_rows import PairBatch
from megaphi.engine.objective import LossFunction, attention_within, local, local_places, over_context_ranks
from megaphi.model.forward.context import ForwardContext
from megaphi.model.forward.targets import Comparison
from megaphi.model.forward.to_device import to_device
from megaphi.stages.losses import ipo_loss, sigmoid_loss


@dataclass(frozen=True, kw_only=True)
class PreferenceObjective:
    """Mean loss over pairs; implements the engine's `Objective`. Its fields are those of the task `Prefer`."""

    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    sft_weight: float = 0.0
    unit = "preference loss of a pair"
    names: tuple[str, ...] = (
        "preference_loss",
        "margin",
        "accuracy",
        "accepted_log_probability",
        "rejected_log_probability",
        "accepted_tokens",
        "rejected_tokens",
    )

    def forward(self, batch: Batch, chunk: torch.nn.Module, device: torch.device) -> tuple[Tensor, LossFunction]:
        assert isinstance(batch, PairBatch)
        return compared(batch, chunk, device), partial(self._summed_loss, batch, device)

    def _summed_loss(
        self, batch: PairBatch, device: torch.device, output: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The sum of the pairs' losses; everything that is reported with it is a sum over pairs too."""
        policy_Q2 = log_probabilities(batch, output)
        reference_Q2 = to_device(batch.reference_Q2, device).to(policy_Q2.dtype)
        lengths_Q2 = to_device(batch.lengths_Q2, device).to(policy_Q2.dtype)
        ratios_Q2 = policy_Q2 - reference_Q2
        if self.loss == "ipo":
            ratios_Q2 = ratios_Q2 / lengths_Q2
        difference_Q = ratios_Q2[:, 0] - ratios_Q2[:, 1]
        if self.loss == "ipo":
            preferred_Q = ipo_loss(difference_Q, beta=self.beta)
        else:
            preferred_Q = sigmoid_loss(difference_Q, beta=self.beta, label_smoothing=self.label_smoothing)
        loss_Q = preferred_Q
        if self.sft_weight:
            loss_Q = loss_Q - self.sft_weight * policy_Q2[:, 0] / lengths_Q2[:, 0]
        measured = (
            preferred_Q,
            self.beta * difference_Q,
            _won(difference_Q),
            policy_Q2[:, 0],
            policy_Q2[:, 1],
            lengths_Q2[:, 0],
            lengths_Q2[:, 1],
        )
        loss_sum, pairs = loss_Q.sum(), torch.full((), len(loss_Q), device=device, dtype=torch.int)
        sums = torch.stack([loss_sum.detach(), pairs, *(values_Q.detach().sum() for values_Q in measured)])
        return loss_sum, pairs, {"sums": sums.double()}


def _won(difference_Q: Tensor) -> Tensor:
    """1 for a pair whose chosen side has gained on the rejected one, 1/2 where nothing has changed."""
    return (difference_Q > 0).to(difference_Q.dtype) + 0.5 * (difference_Q == 0).to(difference_Q.dtype)


class ReferencePass:
    """An objective without a loss; reports log-probabilities [Q, 2] and the numbers of the pairs."""

    names: tuple[str, ...] = ()

    def forward(self, batch: Batch, chunk: torch.nn.Module, device: torch.device) -> tuple[Tensor, LossFunction]:
        assert isinstance(batch, PairBatch)
        return compared(batch, chunk, device), partial(self._kept, batch)

    def _kept(self, batch: PairBatch, output: Tensor) -> Any:
        values_Q2 = log_probabilities(batch, output).detach()
        zero = output.detach().sum() * 0
        return zero, zero.to(torch.int), {"numbers_Q": torch.from_numpy(batch.numbers_Q), "values_Q2": values_Q2}


def compared(batch: PairBatch, chunk: torch.nn.Module, device: torch.device) -> Tensor:
    """Run the model: losses and margins [R + P] on the last pipeline stage, hidden states on the others.

    Under context parallelism they are those of this rank's places.
    """
    own = _of_this_rank(batch)
    context = ForwardContext(
        attention=attention_within(batch.segments_N4, batch, device),
        positions_BS=local(batch.positions_BS, device) if batch.positions_BS is not None else None,
        targets=Comparison(
            rows_R=to_device(own.rows_R, device),
            targets_R=to_device(own.targets_R, device),
            places_P=to_device(own.places_P, device),
            chosen_P=to_device(own.chosen_P, device),
            rejected_P=to_device(own.rejected_P, device),
        ),
    )
    return chunk(local(batch.tokens_BS, device), context)


def log_probabilities(batch: PairBatch, output: Tensor) -> Tensor:
    """Log-probabilities [Q, 2], summed over each side; of a pair of single tokens (their difference, 0).

    Tokens of a side may lie on several context ranks; each of them gets the sums over all. Collective over these.
    """
    own = _of_this_rank(batch)
    losses_R, margins_P = output.split((len(own.rows_R), len(own.places_P)))
    sides = to_device(np.concatenate((own.sides_R, 2 * own.pairs_P)), output.device)
    values = torch.cat((-losses_R, margins_P))
    flat = torch.zeros(2 * len(batch.numbers_Q), dtype=output.dtype, device=output.device)
    return over_context_ranks(flat.index_add(0, sides, values)).view(-1, 2)


def _of_this_rank(batch: PairBatch) -> PairBatch:
    """The micro-batch with what is graded in the places that this context rank holds, counted among these."""
    return batch.graded_at(local_places(batch.tokens_BS.shape[1]))
