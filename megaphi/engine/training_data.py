"""The interface of data for training and validation: a mixture of documents, or rows of packed units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.data.batch import Batch
from megaphi.data.order.ledger import DataContinuation, Origin
from megaphi.data.order.schedule import StageSpan


class StepOrder(Protocol):
    """The samples that each step takes."""

    def span_at(self, step: int) -> StageSpan:
        """The stage of update `step` + 1, with its batch shape."""
        ...

    def position_at(self, step: int) -> Origin:
        """Samples and tokens of the run before update `step` + 1."""
        ...


class DataPosition(Protocol):
    """A place in the data, as checkpoints keep it."""

    def to_json(self) -> dict[str, Any]: ...


class TrainingData(Protocol):
    """Samples by number: what a number means never changes during a run."""

    @property
    def order(self) -> StepOrder: ...

    def batch(self, sample_numbers: ArrayLike) -> Batch:
        """The samples of these numbers, as one micro-batch."""
        ...

    def prepare(self, sample_numbers: ArrayLike) -> None:
        """These will be asked for soon."""
        ...

    def tokens_by_source(self, samples: int) -> dict[str, int]:
        """Tokens that the first `samples` samples took from each source."""
        ...

    def ledger(self, step: int) -> DataPosition:
        """All that resuming after `step` updates must know of the data; a checkpoint's state has it as `ledger`."""
        ...

    def continuation(
        self, state: Mapping[str, Any], position: Origin, *, accept_changes: bool, where: str
    ) -> DataContinuation:
        """The point at which a run goes on that has come to `position`. One rank alone asks, for all of them.

        Args:
            state: that of the run's checkpoint.
            accept_changes: the user accepts data that are not what the run was trained on.
            where: the run's folder, for messages.

        Raises:
            InputError: the ledger in `state` is of other data.
        """
        ...

    def continuation_of_sources(self, state: Mapping[str, Any], *, where: str) -> DataContinuation:
        """The point at which a new run begins that reads on where the run of the checkpoint `where` stopped.

        Raises:
            InputError: these data cannot do that, or nothing in `state` says where it stopped.
        """
        ...

    def continued(self, continuation: DataContinuation) -> TrainingData:
        """These data from there on."""
        ...

    def facts(self) -> Mapping[str, str]:
        """Facts of the content that must be the same on every rank: fingerprints, not paths."""
        ...


class HeldOutData(Protocol):
    """Samples of several sources, by number."""

    def numbers_by_source(self, samples: int) -> Mapping[str, NDArray[np.int64]]:
        """The numbers of each source's samples among the first `samples`, or among all of data that has an end.

        A source of which there is none has an empty list.
        """
        ...

    def batch(self, sample_numbers: ArrayLike) -> Batch:
        """Samples of one source as one micro-batch; of rows with the number `NO_SAMPLE` nothing counts."""
        ...

    def facts(self) -> Mapping[str, str]:
        """As `TrainingData.facts`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """Training data and, where the recipe names any, held-out data."""

    training: TrainingData
    validation: HeldOutData | None
