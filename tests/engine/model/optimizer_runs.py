"""Ranks of the tests of the update: by Megatron's own step, and numbers that an update asks the device for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from megaphi.engine.model.training_model import TrainingModel
from megaphi.engine.training import train_step
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import advance, build, tiny_run, weights_digest


class Questions(TorchDispatchMode):
    """Counts the numbers that Python reads from a tensor: on a GPU each waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def updates(layout: ParallelLayout, limit: float) -> list[tuple[Any, ...]]:
    """(losses, norms, digest of weights after three steps, questions of the updates); Megatron's without the last."""
    return [_by_ours(layout, limit), _by_megatrons_step(layout, limit)]


def _by_ours(layout: ParallelLayout, limit: float) -> tuple[Any, ...]:
    model, questions = _model(layout, limit), Questions()

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            with questions:
                return function(*arguments, **keywords)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("prepared_square", "apply_update"):
            patch.setattr(train_step, name, counted(getattr(train_step, name)))
        curves = advance(model, first=0, steps=3)
    return curves["losses"], curves["norms"], weights_digest(model), questions.count


def _by_megatrons_step(layout: ParallelLayout, limit: float) -> tuple[Any, ...]:
    """The same with the optimizer's own `step`, which prepares, measures, clips and updates."""
    model, norms = _model(layout, limit), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_step, "prepared_square", lambda optimizer: torch.zeros(()))
        patch.setattr(
            train_step, "apply_update", lambda optimizer, gradient_norm: norms.append(float(optimizer.step()[1]))
        )
        curves = advance(model, first=0, steps=3)
    return curves["losses"], norms, weights_digest(model)


def _model(layout: ParallelLayout, limit: float) -> TrainingModel:
    run = tiny_run(layout=layout)
    return build(dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, clip_gradient_norm=limit)))
