"""Training data of fine-tuning and preferences for the engine: rows of packed units, numbered through all epochs of a
run.

A unit must not be cut: it is a conversation, or both sides of a preference pair. `PackedEpochs` assigns units to rows;
the layout of a row is decided by the function that makes batches of units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.config import from_plain, leaves, to_plain
from megaphi.data.batch import Batch
from megaphi.data.order.ledger import DataContinuation, Origin
from megaphi.data.order.schedule import StageSpan
from megaphi.data.packed.epochs import PackedEpochs
from megaphi.data.packed.packing import lay_out
from megaphi.errors import InputError
from megaphi.tokenizer.chat_format import RenderedConversation

MakeBatch = Callable[[list[list[int]], NDArray[np.int64]], Batch]
"""From the units of each row, and the rows' numbers, to the arrays of one micro-batch: a flat row of B S tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowOrder:
    """Position of a run at a step; from `origin` on, every step takes `global_batch` rows."""

    span: StageSpan
    origin: Origin = field(default_factory=Origin)

    def span_at(self, step: int) -> StageSpan:
        return self.span

    def position_at(self, step: int) -> Origin:
        """Rows, and the tokens that they have room for, before step `step`."""
        rows = (step - self.origin.step) * self.span.global_batch
        tokens = self.origin.tokens + rows * self.span.sequence_length
        return Origin(step=step, sample=self.origin.sample + rows, tokens=tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsLedger:
    """The place in the data, as a checkpoint keeps it."""

    data: str
    """SHA-256 of the units and of all that decides which row holds which."""
    rows_per_epoch: int
    epochs: float
    origin: Origin

    def to_json(self) -> dict[str, Any]:
        return {"kind": "packed rows", **to_plain(self)}


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRows:
    """Packed rows to train on; implements the engine's `TrainingData`."""

    name: str
    """Name of this data in metrics and checkpoints."""
    epochs: PackedEpochs
    order: RowOrder
    make_batch: MakeBatch
    content: str
    """SHA-256 of the units themselves."""

    def prepare(self, sample_numbers: ArrayLike) -> None:
        """Everything is in memory already."""

    def batch(self, sample_numbers: ArrayLike) -> Batch:
        """The rows of these numbers, one after the other in one flat row: a pure function of them."""
        numbers_B = np.asarray(sample_numbers, dtype=np.int64)
        return self.make_batch([self.epochs.row(number) for number in numbers_B.tolist()], numbers_B)

    def tokens_by_source(self, samples: int) -> dict[str, int]:
        return {self.name: samples * self.order.span.sequence_length}

    def ledger(self, step: int) -> RowsLedger:
        rows = self.order.position_at(step).sample
        return RowsLedger(
            data=f"{self.content}/{self.epochs.fingerprint}",
            rows_per_epoch=self.epochs.rows_per_epoch,
            epochs=round(rows / self.epochs.rows_per_epoch, 6),
            origin=self.order.origin,
        )

    def continuation(
        self, state: Mapping[str, Any], position: Origin, *, accept_changes: bool, where: str
    ) -> DataContinuation:
        """The row from which a run goes on that has come to `position`.

        Raises:
            InputError: the checkpoint's ledger is of other data, or the batch is another, and that was not accepted.
        """
        found = state.get("ledger")
        known = found if isinstance(found, dict) else {}
        if not accept_changes:
            self._check_same_data(known, where=where)
        origin = from_plain(Origin, known.get("origin", {}), where=f"{where}: ledger.origin")
        if replace(self.order, origin=origin).position_at(position.step) == position:
            return DataContinuation(origin)
        if not accept_changes:
            raise InputError(
                f"{where} had taken {position.sample:,} rows after {position.step:,} steps, which are not of "
                f"batch.global_batch={self.order.span.global_batch}: put the old batch back, or set "
                "start.accept_changed_data=true to go on at the next row (training.steps counts steps of both sizes)"
            )
        return DataContinuation(position)

    def continuation_of_sources(self, state: Mapping[str, Any], *, where: str) -> DataContinuation:
        raise InputError(f"start.continue_sources=true is for mixtures: {self.name} always start over")

    def continued(self, continuation: DataContinuation) -> PackedRows:
        return replace(self, order=replace(self.order, origin=continuation.origin))

    def facts(self) -> dict[str, str]:
        return {path: str(value) for path, value in leaves(self.ledger(0).to_json())}

    def _check_same_data(self, known: dict[str, Any], *, where: str) -> None:
        expected = self.ledger(0).to_json()
        if known.get("kind") != expected["kind"] or known.get("data") != expected["data"]:
            raise InputError(
                f"{where} was trained on other {self.name}, or packed otherwise (files, seed, batch.sequence_length): "
                "use another folder, with start.initial_checkpoint to train its weights on; or "
                "start.accept_changed_data=true to go on at the same row number of the new data"
            )


def steps_of_epochs(epochs: float, *, rows_per_epoch: int, global_batch: int) -> int:
    """Optimizer steps that see every row `epochs` times; the last one is filled up from the next epoch."""
    return max(1, math.ceil(epochs * rows_per_epoch / global_batch - 1e-9))


def conversation_batch(samples: Sequence[RenderedConversation], *, capacity: int, padding_token: int) -> MakeBatch:
    """Return the function that makes micro-batches: attention, labels and positions stay within a conversation."""

    def make(rows: list[list[int]], numbers_B: NDArray[np.int64]) -> Batch:
        laid = [
            lay_out([samples[unit] for unit in units], capacity=capacity, padding_token=padding_token) for units in rows
        ]
        ids = [row.document_ids_S for row in laid]
        firsts = np.cumsum([0, *(int(row_ids[-1]) + 1 for row_ids in ids[:-1])])
        flat_ids = np.concatenate([row_ids + first for row_ids, first in zip(ids, firsts, strict=True)])
        return Batch(
            tokens_BS=np.concatenate([row.tokens_S for row in laid])[None],
            labels_BS=np.concatenate([row.labels_S for row in laid])[None],
            loss_mask_BS=np.concatenate([row.loss_mask_S for row in laid])[None],
            document_ids_BS=flat_ids.astype(np.int32)[None],
            sample_numbers_B=numbers_B,
            positions_BS=np.concatenate([row.positions_S for row in laid])[None],
        )

    return make
