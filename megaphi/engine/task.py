"""Training tasks: the configuration section `task`, of which every kind of training is a class.

`megaphi.stages` has those of the recipe (Pretrain, Finetune, Prefer); a recipe file may bring one of its own. A task
checks its fields with the rest of the run, opens its data, and gives the objective; all else is the engine's, which
never asks what kind it is. No torch here.
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
"""From an update's number and its objective's means to why the run must end there, without saving; None: it goes on."""


def no_check(step: int, means: Mapping[str, float]) -> str | None:
    """Any step will do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenTask:
    """A task on one rank, ready to train."""

    run: RunConfig
    """With what follows from the data, such as the steps of so many epochs."""
    data: RunData
    objective: Objective
    before_training: Callable[[Any], object] | None = None
    """Called with the `TrainingModel` as it is before its first update, also where a run is resumed. Collective."""
    check_step: CheckStep = no_check


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingTask(SectionOfKinds, ABC):
    """One kind of training; its fields are dataclass fields with a docstring each, as everywhere in a configuration."""

    @property
    def has_validation(self) -> bool:
        """Return whether it names held-out data."""
        return False

    def batch_shapes(self, run: RunConfig) -> list[BatchShape]:
        """The global batch of every stage of the run."""
        return [run.batch]

    @abstractmethod
    def checked(self, run: RunConfig, layout: ParallelLayout) -> TrainingTask:
        """The task after a look at the whole run, with names of files pinned. Raises InputError."""
        ...

    def rehearse(self) -> None:
        """Load what a dry run would not: code of the user's own. Raises InputError."""

    @abstractmethod
    def open(self, run: RunConfig, tokenizer: Tokenizer | None) -> OpenTask:
        """Read the data. Every rank does; an InputError of any ends the job.

        Args:
            tokenizer: the model's; None where it has none, and the data must hold ids.
        """
        ...
