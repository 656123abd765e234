"""Validation: means over the same held-out samples whatever the layout, of each source and of all together.

Each source has micro-batches of its own, so that the sums of a micro-batch belong to one source, whatever the
objective. A source's last micro-batch is padded with rows that do not count, and then micro-batches of such rows are
added until every replica has as many as the pipeline's schedule needs. The overall loss is the mean over everything
that counts, not the mean of the sources' means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from megaphi.data.batch import NO_SAMPLE
from megaphi.engine.model.training_model import TrainingModel
from megaphi.engine.objective import Objective
from megaphi.engine.run_config import RunConfig
from megaphi.engine.training.train_step import evaluate, means_of
from megaphi.engine.training_data import HeldOutData
from megaphi.log import logger
from megaphi.parallel.world import World

Dealt = list[tuple[str | None, NDArray[np.int64]]]
"""A micro-batch: its source (None if all rows are padding) and the numbers of its samples."""


class Validation:
    """The held-out samples of a run, divided among the replicas; logs at the start which sources have none."""

    def __init__(self, data: HeldOutData, run: RunConfig, world: World) -> None:
        self._data = data
        numbers = data.numbers_by_source(run.validation.samples)
        self.sources = tuple(name for name, numbers_N in numbers.items() if len(numbers_N))
        least = world.layout.least_micro_batches
        dealt = micro_batches(numbers, rows=run.batch.micro_batch, replicas=world.replicas, least=least)
        self._mine: Dealt = dealt[world.replica :: world.replicas]
        if world.is_main:
            _introduce(numbers)

    def means(self, model: TrainingModel, objective: Objective, *, step: int) -> dict[str, float]:
        """Evaluate: `validation_loss`, `validation_loss/SOURCE` of each source, and the same of the other means.

        Collective.
        """
        batches = [[self._data.batch(numbers_B) for numbers_B in self._of(name)] for name in (*self.sources, None)]
        *sums, _ = evaluate(model, batches, objective)
        total = {name: sum(part[name] for part in sums) for name in sums[0]}
        found = {f"validation_{name}": value for name, value in means_of(total).items()}
        for source, part in zip(self.sources, sums, strict=True):
            found |= {f"validation_{name}/{source}": value for name, value in means_of(part).items()}
        each = ", ".join(f"{source} {found[f'validation_loss/{source}']:.4f}" for source in self.sources)
        logger.info("validation loss after step %d: %.4f (%s)", step, found["validation_loss"], each)
        return found

    def _of(self, source: str | None) -> Iterator[NDArray[np.int64]]:
        return (numbers_B for name, numbers_B in self._mine if name == source)


def micro_batches(numbers: Mapping[str, NDArray[np.int64]], *, rows: int, replicas: int, least: int) -> Dealt:
    """Cut one source's samples into micro-batches, in order, padded to as many for each replica, at least `least`."""
    dealt: Dealt = []
    for name, numbers_N in numbers.items():
        padding = np.full(-len(numbers_N) % rows, NO_SAMPLE)
        dealt += [(name, numbers_B) for numbers_B in np.concatenate((numbers_N, padding)).reshape(-1, rows)]
    each = max(-(-len(dealt) // replicas), least)
    return dealt + [(None, np.full(rows, NO_SAMPLE))] * (each * replicas - len(dealt))


def _introduce(numbers: Mapping[str, NDArray[np.int64]]) -> None:
    each = ", ".join(f"{name} {len(numbers_N):,}" for name, numbers_N in numbers.items() if len(numbers_N))
    logger.info("validation: %s held-out rows (%s)", f"{sum(map(len, numbers.values())):,}", each)
    if absent := [name for name, numbers_N in numbers.items() if not len(numbers_N)]:
        logger.warning(
            "validation: no held-out rows of %s: no validation_paths, nothing kept of them, or a weight that gets "
            "none of validation.samples",
            ", ".join(absent),
        )
