"""Ranks of the validation test: held-out losses of one model under several layouts, in one world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megaphi.engine.run_config import RunConfig

SAMPLES = 13  # of three sources in micro-batches of two: neither fills them, and no number of replicas divides them


def validated(runs: Sequence[RunConfig]) -> list[tuple[dict[str, float], list[dict[str, float]]]]:
    """For each run, of a model that has learnt nothing: the metrics, and the sums of every source and of what pads."""
    from megaphi.engine.training import validation
    from megaphi.engine.training.train_step import NEXT_TOKEN
    from megaphi.stages.pretrain import open_data
    from tests.engine.layout_runs import build

    found = []
    for run in runs:
        model = build(run)
        _, held_out = open_data(model.run)
        assert held_out is not None
        sums: list[Any] = []
        evaluate = validation.evaluate
        validation.evaluate = lambda *given, sums=sums, evaluate=evaluate: sums.append(evaluate(*given)) or sums[-1]
        try:
            means = validation.Validation(held_out, model.run, model.world).means(model, NEXT_TOKEN, step=0)
        finally:
            validation.evaluate = evaluate
        found.append((means, sums[0]))
    return found
