"""The rank of the test of residual additions: operations of a step that add two tensors of hidden states."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.engine.layout_runs import TINY, build, step_batches, tiny_run

SHAPE = (32, 2, TINY.hidden)
"""Shape of the hidden states of a micro-batch: [S, B, D]."""


class Operations(TorchDispatchMode):
    """Counts additions of hidden states, by themselves and within a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.alone = self.in_norms = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.alone += func in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor) and args[0].shape == SHAPE
        self.in_norms += func is torch.ops.megaphi.add_rms_norm.default
        return func(*args, **(kwargs or {}))


def additions(recompute: str) -> tuple[int, int]:
    """(alone, in norms) of one micro-batch, forward and backward."""
    from megaphi.engine.training.train_step import NEXT_TOKEN, run_schedule

    run = tiny_run(recompute=recompute)
    model = build(dataclasses.replace(run, batch=dataclasses.replace(run.batch, global_batch=2)))
    batches = step_batches(model.run, step=0, replica=0, replicas=1)
    run_schedule(model, batches, NEXT_TOKEN, forward_only=False)  # kernels try themselves in their first call
    with Operations() as operations:
        run_schedule(model, batches, NEXT_TOKEN, forward_only=False)
    return operations.alone, operations.in_norms
