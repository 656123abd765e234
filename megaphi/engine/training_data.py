"""The interface of data for training and validation: a mixture of documents, packed rows, or a recipe's own."""

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
        """The mixture stage of update `step` + 1, with its batch shape."""
        ...

    def position_at(self, step: int) -> Origin:
        """Samples and tokens of the run before update `step` + 1."""
        ...


class DataPosition(Protocol):
    """A position in the data, as checkpoints record it."""

    def to_json(self) -> dict[str, Any]: ...


class TrainingData(Protocol):
    """Samples by number: what a number means never changes during a run."""

    @property
    def order(self) -> StepOrder: ...

    def batch(self, sample_numbers: ArrayLike) -> Batch:
        """The samples of these numbers, as one micro-batch."""
        ...

    def prepare(self, sample_numbers: ArrayLike) -> None:
        """Announce samples that will be asked for soon, so that they can be prefetched."""
        ...

    def tokens_by_source(self, samples: int) -> dict[str, int]:
        """Tokens that the first `samples` samples took from each source."""
        ...

    def ledger(self, step: int) -> DataPosition:
        """Everything that resuming after `step` updates needs to know of the data: the checkpoint's `ledger`."""
        ...

    def continuation(
        self, state: Mapping[str, Any], position: Origin, *, accept_changes: bool, where: str
    ) -> DataContinuation:
        """Find where a run continues whose checkpoint was written at `position`. Called on the main rank only.

        Args:
            state: the state in the checkpoint, with its `ledger`.
            accept_changes: continue even if the data are not those that the run was trained on.
            where: the run folder, for messages.

        Raises:
            InputError: the ledger in `state` is of other data.
        """
        ...

    def continuation_of_sources(self, state: Mapping[str, Any], *, where: str) -> DataContinuation:
        """Find where a new run begins that continues the sources of another run's checkpoint, `where`.

        Raises:
            InputError: these data do not support that, or `state` does not record how far the sources were read.
        """
        ...

    def continued(self, continuation: DataContinuation) -> TrainingData:
        """The same data, from that point on."""
        ...

    def facts(self) -> Mapping[str, str]:
        """Identity of the content, which must be the same on every rank: fingerprints, not paths."""
        ...


class HeldOutData(Protocol):
    """Samples of several sources, by number."""

    def numbers_by_source(self, samples: int) -> Mapping[str, NDArray[np.int64]]:
        """Numbers of each source's samples, among the first `samples` of a mixture or all of finite data.

        A source without samples has an empty list.
        """
        ...

    def batch(self, sample_numbers: ArrayLike) -> Batch:
        """Samples of one source as one micro-batch; rows with the number `NO_SAMPLE` do not count."""
        ...

    def facts(self) -> Mapping[str, str]:
        """See `TrainingData.facts`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """Training data and, if the recipe names any, held-out data."""

    training: TrainingData
    validation: HeldOutData | None
