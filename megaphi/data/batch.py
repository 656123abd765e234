"""One batch of next-token samples, as plain arrays: what `data` hands to the engine.

B samples of S tokens. Labels are the tokens shifted by one, so the last label of a row is a token that the row itself
does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from megaphi.config import Range

NO_SAMPLE = -1
"""Number of a row that only pads a micro-batch of held-out samples: its loss mask is zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchShape:
    """The global batch of one step (config section `batch`)."""

    sequence_length: Annotated[int, Range(minimum=1, below=2**32)] = 4_096
    global_batch: Annotated[int, Range(minimum=1)]
    """Sequences per step over all replicas."""
    micro_batch: Annotated[int, Range(minimum=1)] = 1
    """Sequences per forward pass of one replica."""

    @property
    def tokens_per_step(self) -> int:
        return self.global_batch * self.sequence_length


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """B samples of S tokens each, contiguous and owned by the batch."""

    context_ranks_know_all: ClassVar[bool] = False
    """True if every context rank reports the whole micro-batch, and not the tokens that it holds: it counts once."""
    tokens_BS: NDArray[np.int64]
    labels_BS: NDArray[np.int64]
    loss_mask_BS: NDArray[np.float32]
    """1 where the label is trained on, 0 where it is not."""
    document_ids_BS: NDArray[np.int32] | None
    """Document index along each row, 0, 1, 2, ..., incremented at every document start; None when attention may cross
    documents.
    """
    sample_numbers_B: NDArray[np.int64]
    """Position of each row in the run, which determines its content; `NO_SAMPLE` for rows that belong to none."""
    positions_BS: NDArray[np.int64] | None = None
    """Positions counted from 0 in every document; None when they count through the row."""


def document_positions(document_ids_BS: NDArray[np.int32]) -> NDArray[np.int64]:
    """Positions counted from 0 where a row begins and wherever its document changes."""
    places_S = np.arange(document_ids_BS.shape[1], dtype=np.int64)
    starts_BS = np.zeros(document_ids_BS.shape, dtype=np.int64)
    starts_BS[:, 1:] = np.where(document_ids_BS[:, 1:] != document_ids_BS[:, :-1], places_S[1:], 0)
    return places_S - np.maximum.accumulate(starts_BS, axis=1)
