"""Evaluation during training: when it is due, and how long it took. `megaphi.evaluation` knows what is asked.

A run that is asked to end does not evaluate first: it has to save. Nor does it when it continues, as the step is over;
`megaphi evaluate` gives the same scores from the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from megaphi.engine.model.training_model import TrainingModel
from megaphi.engine.run_config import RunConfig
from megaphi.log import logger


class Evaluate(Protocol):
    """Tasks that are ready to be asked."""

    def facts(self) -> Mapping[str, str]:
        """Identity of what is asked, which must be the same on every rank: contents, not paths."""
        ...

    def scores(self, model: TrainingModel, *, step: int) -> dict[str, float]:
        """Scores by the names under which metrics show them; they leave no trace in the training. Collective."""
        ...


class Evaluations:
    """The evaluations of a run: every `evaluation.every` steps, and after the last step."""

    def __init__(self, run: RunConfig, evaluate: Evaluate) -> None:
        self._every, self._last = run.evaluation.every, run.training.steps
        self._evaluate = evaluate

    def are_due(self, step: int, *, in_haste: bool) -> bool:
        """`in_haste`: the run is asked to end, so that an evaluation that is due is left out, and the log says so."""
        is_due = step % self._every == 0 or step == self._last
        if is_due and in_haste:
            logger.warning("step %d is not evaluated, as the run has to end: evaluate its checkpoint", step)
        return is_due and not in_haste

    def scores(self, model: TrainingModel, *, step: int) -> dict[str, float]:
        """The scores, and `evaluation_seconds`. Collective."""
        began = time.perf_counter()
        found = self._evaluate.scores(model, step=step)
        return {**found, "evaluation_seconds": round(time.perf_counter() - began, 3)}
