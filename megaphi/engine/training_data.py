"""The interface of data for training and validation: a mixture of documents, or rows of packed units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.data.batch import Batch
from megaphi.data.order.ledger import Origin
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
        """All that resuming after `step` updates must know of the data."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """Training data and, where the recipe names any, held-out data."""

    training: TrainingData
    validation: HeldOutData | None
