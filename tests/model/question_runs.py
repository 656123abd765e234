"""Passes on a device that answers no question: numbers that have no values, as torch's own fake tensors.

Whatever would make the host wait for a GPU raises: `.item()`, `.tolist()`, `bool()` of a tensor, `nonzero`, a mask as
an index. So does what takes its size from data. Host values are real, and may be asked; what is copied to the device
is not. The device is called a CPU, so checks of contents are off, as on a GPU; groups of ranks communicate with nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)

from megaphi.data.batch import Batch
from megaphi.kernels import loading
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import TINY

DEVICE = torch.device("cpu")
ROWS, LENGTH = 2, 32


@contextmanager
def silent_device(layout: ParallelLayout) -> Iterator[None]:
    """Tensors without values, for rank 0 of a layout."""
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

    from megaphi.model.forward import paged_cache, segments
    from megaphi.parallel.world import pretended_world

    mode, copied = FakeTensorMode(allow_non_fake_inputs=True), torch.Tensor.to

    def without_values(tensor: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        found = copied(tensor, *arguments, **named)
        is_copied = DEVICE in (*arguments, named.get("device"))
        return mode.from_tensor(found) if is_copied and not isinstance(found, FakeTensor) else found

    with pytest.MonkeyPatch.context() as patch, pretended_world(layout, rank=0):
        # Building the model looks at random states, which no pass of it does.
        patch.setattr(CudaRNGStatesTracker, "fork", lambda *_: nullcontext())
        patch.setattr(torch.compiler, "is_compiling", lambda: True)  # no checks of contents
        patch.setattr(loading, "why_not", lambda *_: None)
        for module in (segments, paged_cache):
            patch.setattr(module, "is_launched", lambda query: query.dtype != torch.float32)
        with mode:
            patch.setattr(torch.Tensor, "to", without_values)
            yield


def built(layout: ParallelLayout, **fields: Any) -> torch.nn.Module:
    from megaphi.model.language_model import build_model

    model = replace(TINY, **fields)
    (module,) = build_model(model, layout, sequence_length=LENGTH, seed=None, parameters="bfloat16")
    assert all(isinstance(parameter, FakeTensor) for parameter in module.parameters())
    return module


def batch_of(*, isolated: bool) -> Batch:
    generator = np.random.default_rng(0)
    tokens = generator.integers(TINY.vocabulary, size=(ROWS, LENGTH))
    ids = np.sort(generator.integers(4, size=(ROWS, LENGTH)), axis=1).astype(np.int32)
    return Batch(
        sample_numbers_B=np.arange(ROWS),
        tokens_BS=tokens,
        labels_BS=tokens,
        loss_mask_BS=np.ones((ROWS, LENGTH), dtype=np.float32),
        document_ids_BS=ids if isolated else None,
    )


def trained(layout: ParallelLayout, isolated: bool, fields: dict[str, Any]) -> list[str]:
    """Forward and backward pass of a micro-batch; returns what the loss still cannot be asked."""
    from megaphi.engine.objective import NextToken

    with silent_device(layout):
        module = built(layout, **fields)
        output, loss_of = NextToken().forward(batch_of(isolated=isolated), module, DEVICE)
        loss, count, report = loss_of(output)
        loss.backward()
        assert all(parameter.grad is not None for parameter in module.parameters())
        return [refused(question, number) for number in (count, report["sums"][0]) for question in QUESTIONS]


QUESTIONS: list[Callable[[Any], Any]] = [
    lambda number: number.item(),
    lambda number: bool(number > 0),
    lambda number: number.tolist(),
    lambda number: number.reshape(1).nonzero(),
    lambda number: number.reshape(1)[number.reshape(1) > 0],
]


def refused(question: Callable[[Any], Any], number: Any) -> str:
    try:
        question(number)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        return type(error).__name__
    return "answered"
