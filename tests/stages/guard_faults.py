"""Faults of hardware, as objectives that a recipe names: `guard_faults.py:NanGradient`.

Each hurts one rank at fixed steps, which it recognises by the numbers of the samples, and notes the time of the
first in the file that FAULT_NOTE names.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
import torch.distributed as distributed
from torch import Tensor

from megaphi.data.batch import Batch
from megaphi.engine.objective import LossFunction, NextToken
from megaphi.errors import RunFailed

GLOBAL_BATCH = 4
RANK = 1


def _step(batch: Batch) -> int:
    return int(batch.sample_numbers_B[0]) // GLOBAL_BATCH + 1


class _Fault(NextToken):
    steps: tuple[int, ...] = ()

    def forward(self, batch: Batch, chunk: torch.nn.Module, device: torch.device) -> tuple[Tensor, LossFunction]:
        strikes = torch.is_grad_enabled() and _step(batch) in self.steps and distributed.get_rank() == RANK
        if strikes:
            note = Path(os.environ["FAULT_NOTE"])
            note.write_text(note.read_text() if note.is_file() else str(time.time()))
            self.before(chunk)
        output, loss = super().forward(batch, chunk, device)
        if strikes:
            self.after(chunk)
        return output, loss

    def before(self, chunk: torch.nn.Module) -> None: ...

    def after(self, chunk: torch.nn.Module) -> None: ...


class NanGradient(_Fault):
    """One element of one gradient becomes NaN."""

    steps = (17,)

    def before(self, chunk: torch.nn.Module) -> None:
        *_, weight = (parameter for parameter in chunk.parameters() if parameter.dim() == 1)

        def poison(gradient: Tensor) -> Tensor:
            handle.remove()
            gradient = gradient.clone()
            gradient.view(-1)[7] = torch.nan
            return gradient

        handle = weight.register_hook(poison)


class NanGradients(NanGradient):
    """The same in a row of steps, more than the guard skips."""

    steps = (19, 20, 21, 22, 23)


class NanGradientsThenCrash(NanGradients):
    """And a crash of all ranks in a step after the roll back, once in the life of a run."""

    def forward(self, batch: Batch, chunk: torch.nn.Module, device: torch.device) -> tuple[Tensor, LossFunction]:
        mark = Path(f"{os.environ['FAULT_NOTE']}_crash_{distributed.get_rank()}")
        if _step(batch) == 24 and not mark.exists():
            mark.touch()
            raise RunFailed("crashed")
        return super().forward(batch, chunk, device)


class FlippedBit(_Fault):
    """A bit of one weight of one replica, after the forward pass: the backward pass meets it."""

    steps = (16,)

    def after(self, chunk: torch.nn.Module) -> None:
        *_, weight = (parameter for name, parameter in chunk.named_parameters() if name.endswith("linear_fc2.weight"))
        bits = weight.data.view(-1).view(torch.int32)
        if not hasattr(self, "_flipped"):
            self._flipped = True
            bits[11] ^= 1 << 20


class FlippedBitUnseen(FlippedBit):
    """The same in a step in which replicas are not compared."""

    steps = (15,)
