"""A task of a fork whose data are neither a mixture nor packed rows: samples that are a function of their number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from megaphi.data.batch import Batch
from megaphi.data.order.ledger import DataContinuation, Origin
from megaphi.data.packed.rows import RowOrder
from megaphi.engine.objective import NextToken
from megaphi.engine.run_config import RunConfig
from megaphi.engine.task import OpenTask, TrainingTask
from megaphi.engine.training_data import RunData
from megaphi.errors import InputError
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.packed_task import row_order
from megaphi.tokenizer.interface import Tokenizer
from tests.engine.layout_runs import sample


@dataclass(frozen=True, kw_only=True)
class WalkLedger:
    """The place in the walks."""

    origin: Origin

    def to_json(self) -> dict[str, Any]:
        return {"kind": "walks", "first": self.origin.sample}


@dataclass(frozen=True, kw_only=True)
class Walks:
    """Fulfils the engine's `TrainingData`; keeps a list of the samples that it gave."""

    order: RowOrder
    vocabulary: int
    given: list[int]

    def prepare(self, sample_numbers: ArrayLike) -> None:
        """Nothing is read."""

    def batch(self, sample_numbers: ArrayLike) -> Batch:
        numbers_B = np.asarray(sample_numbers, dtype=np.int64)
        self.given.extend(numbers_B.tolist())
        length = self.order.span.sequence_length
        rows_BT = np.stack([sample(n, length=length, vocabulary=self.vocabulary) for n in numbers_B.tolist()])
        return Batch(
            tokens_BS=np.ascontiguousarray(rows_BT[:, :-1]),
            labels_BS=np.ascontiguousarray(rows_BT[:, 1:]),
            loss_mask_BS=np.ones((len(numbers_B), length), dtype=np.float32),
            document_ids_BS=None,
            sample_numbers_B=numbers_B,
        )

    def tokens_by_source(self, samples: int) -> dict[str, int]:
        return {"walks": samples * self.order.span.sequence_length}

    def ledger(self, step: int) -> WalkLedger:
        return WalkLedger(origin=self.order.origin)

    def continuation(
        self, state: Mapping[str, Any], position: Origin, *, accept_changes: bool, where: str
    ) -> DataContinuation:
        if state["ledger"]["kind"] != "walks":
            raise InputError(f"{where} was not trained on walks")
        return DataContinuation(position, notes=(f"walks go on at {position.sample}",))

    def continuation_of_sources(self, state: Mapping[str, Any], *, where: str) -> DataContinuation:
        return DataContinuation(Origin(sample=state["samples"]), notes=("walks are taken over",))

    def continued(self, continuation: DataContinuation) -> Walks:
        return replace(self, order=replace(self.order, origin=continuation.origin))

    def facts(self) -> dict[str, str]:
        return {"vocabulary": str(self.vocabulary)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Walk(TrainingTask):
    """Predict the next step of noisy walks."""

    numbers_file: str
    """A file for the numbers of the samples that were given; where it exists, it is written anew."""

    def checked(self, run: RunConfig, layout: ParallelLayout) -> TrainingTask:
        return self

    def open(self, run: RunConfig, tokenizer: Tokenizer | None) -> OpenTask:
        walks = Walks(
            order=row_order(run, "walks", steps=run.training.steps), vocabulary=run.model.vocabulary, given=[]
        )

        def check_step(step: int, means: Mapping[str, float]) -> None:
            Path(self.numbers_file).write_text(" ".join(map(str, walks.given)))

        data = RunData(training=walks, validation=None)
        return OpenTask(run=run, data=data, objective=NextToken(), check_step=check_step)
