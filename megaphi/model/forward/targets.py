"""Targets of a forward pass: each kind of output is a small class that computes it on the last pipeline stage.

There are losses of the next token, losses and margins at chosen positions, and logits of some tokens or of all. A kind
takes what it needs from the `OutputHead` (`FusedModel`), which knows how the vocabulary is cut over the tensor ranks
and whether logits of a whole micro-batch may exist. A kind of your own (distances to a teacher's logits, say) is one
class like these.

Legend: S sequence, B batch, T = B S tokens, D width, V this rank's part of the vocabulary, P pairs, R graded tokens,
W rows of logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor


class OutputHead(Protocol):
    """The top of the last pipeline stage."""

    def logits(self, hidden_SBD: Tensor) -> Tensor:
        """Logits `[S, B, V]`; those of padding have the lowest number there is."""
        ...

    def losses(self, hidden_SBD: Tensor, labels_BS: Tensor) -> Tensor:
        """Cross-entropies `[B, S]` of the labels."""
        ...

    def whole_sequence(self, hidden_SBD: Tensor) -> Tensor:
        """Hidden states `[S, B, D]` of all tokens of this context rank, for the two below."""
        ...

    def losses_in_chunks(self, hidden_RD: Tensor, labels_R: Tensor) -> Tensor:
        """Cross-entropies `[R]`; logits of all R tokens never exist at once."""
        ...

    def margins(self, hidden_PD: Tensor, tokens_P: Tensor, others_P: Tensor) -> Tensor:
        """Differences `[P]` between the logits of two tokens; they need no softmax."""
        ...


class Targets(ABC):
    """One kind of output."""

    picks_tokens: ClassVar[bool] = False
    """True if `output` picks tokens of `hidden_SBD` by their place in the row, so that a rank must hold the whole row.

    Under sequence parallelism it holds a share of it, and the model refuses the pass.
    """

    @abstractmethod
    def output(self, head: OutputHead, hidden_SBD: Tensor) -> Tensor:
        """Compute the output on the last stage, from the hidden states after the final norm."""


@dataclass(frozen=True, slots=True)
class Labels(Targets):
    """Cross-entropies `[B, S]` of the next tokens."""

    labels_BS: Tensor

    def output(self, head: OutputHead, hidden_SBD: Tensor) -> Tensor:
        return head.losses(hidden_SBD, self.labels_BS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison(Targets):
    """Losses of graded tokens of one flat row, then margins between two tokens: `[R + P]`."""

    rows_R: Tensor
    """Positions whose next token is graded."""
    targets_R: Tensor
    """Those tokens."""
    places_P: Tensor
    """Positions at which the logits of two tokens are compared."""
    chosen_P: Tensor
    rejected_P: Tensor

    def output(self, head: OutputHead, hidden_SBD: Tensor) -> Tensor:
        hidden_TD = head.whole_sequence(hidden_SBD).squeeze(1)
        margins_P = head.margins(hidden_TD[self.places_P], self.chosen_P, self.rejected_P)
        if not len(self.rows_R):
            return margins_P
        return torch.cat((head.losses_in_chunks(hidden_TD[self.rows_R], self.targets_R), margins_P))


@dataclass(frozen=True, slots=True)
class LogitRows(Targets):
    """Logits `[1, W, V]` of some tokens of one flat row."""

    picks_tokens: ClassVar[bool] = True
    rows_W: Tensor

    def output(self, head: OutputHead, hidden_SBD: Tensor) -> Tensor:
        return head.logits(hidden_SBD[self.rows_W]).transpose(0, 1).contiguous()


class AllLogits(Targets):
    """Logits `[B, S, V]` of every token."""

    def output(self, head: OutputHead, hidden_SBD: Tensor) -> Tensor:
        return head.logits(hidden_SBD).transpose(0, 1).contiguous()
