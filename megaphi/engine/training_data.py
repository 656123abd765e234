"""What the training loop asks of its data, whatever it is: a mixture of documents, or rows of packed units."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import ArrayLike

from megaphi.data.batch import Batch
from megaphi.data.ledger import Origin
from megaphi.data.stages import StageSpan


class StepOrder(Protocol):
    """Which samples a step takes."""

    def span_at(self, step: int) -> StageSpan:
        """The stage of update `step` + 1, with its batch shape."""
        ...

    def position_at(self, step: int) -> Origin:
        """Samples and tokens of the run before update `step` + 1."""
        ...


class Place(Protocol):
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

    def ledger(self, step: int) -> Place:
        """All that resuming after `step` updates must know of the data."""
        ...
