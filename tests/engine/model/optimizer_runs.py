"""Ranks of the tests of the update: by Megatron's own step, and numbers that an update asks the device for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
    """(losses, norms, digest of weights after three steps, questions of an update); without the last, Megatron's."""
    megatrons = _updates(layout, limit, by=lambda optimizer: optimizer.step()[1])
    return [_updates(layout, limit, by=train_step.update), megatrons[:3]]


def _updates(layout: ParallelLayout, limit: float, *, by: Any) -> tuple[Any, ...]:
    run = tiny_run(layout=layout)
    run = dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, clip_gradient_norm=limit))
    model, questions = build(run), Questions()

    def counted(optimizer: Any) -> float:
        with questions:
            return by(optimizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_step, "update", counted)
        curves = advance(model, first=0, steps=3)
    return curves["losses"], curves["norms"], weights_digest(model), questions.count / 3
