"""Training tasks: the configuration section `task`, with a class for every kind of training.

`megaphi.stages` has the tasks of Phi-4's recipe (Pretrain, Finetune, Prefer); a recipe file may define its own. A task
checks its fields together with the rest of the run, opens its data, and names the objective. Everything else is done by
the engine, which treats all tasks alike. No torch here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from megaphi.config_kinds import SectionOfKinds
from megaphi.data.batch import BatchShape
from megaphi.engine.training_data import RunData
from megaphi.parallel.layout import ParallelLayout
from megaphi.tokenizer.interface import Tokenizer

if TYPE_CHECKING:
    from megaphi.engine.objective import Objective
    from megaphi.engine.run_config import RunConfig

CheckStep = Callable[[int, Mapping[str, float]], str | None]
"""Maps an update's number and means to the reason why the run must end there, without saving; None: it continues."""


def no_check(step: int, means: Mapping[str, float]) -> str | None:
    """Accept every step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenTask:
    """A task on one rank, ready to train."""

    run: RunConfig
    """The run with fields that follow from the data, such as the number of steps in `training.epochs`."""
    data: RunData
    objective: Objective
    before_training: Callable[[Any], object] | None = None
    """Called with the `TrainingModel` with its initial weights, also when a run is resumed. Collective."""
    check_step: CheckStep = no_check


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingTask(SectionOfKinds, ABC):
    """One kind of training. Its fields are dataclass fields with a docstring each, as in every section."""

    @property
    def has_validation(self) -> bool:
        """Return whether it names held-out data."""
        return False

    def batch_shapes(self, run: RunConfig) -> list[BatchShape]:
        """The batch shape of every mixture stage of the run; without stages, the run's."""
        return [run.batch]

    @abstractmethod
    def checked(self, run: RunConfig, layout: ParallelLayout) -> TrainingTask:
        """Check the task within the whole run; returns it with the user's code files pinned. Raises InputError."""
        ...

    def rehearse(self) -> None:
        """Load the user's own code, which a dry run would otherwise not see fail. Raises InputError."""

    @abstractmethod
    def open(self, run: RunConfig, tokenizer: Tokenizer | None) -> OpenTask:
        """Open the data. Called on every rank; an InputError on any of them ends the job.

        Args:
            tokenizer: the model's; None if it has none, and then the data must hold ids.
        """
        ...
