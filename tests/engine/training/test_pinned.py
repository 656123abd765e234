"""Batches in page-locked memory: the same values, every array, and none on a CPU. Not yet run on a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import fields

import numpy as np
import pytest
import torch

from megaphi.data.batch import Batch
from megaphi.engine.training.pinned import pinned

BATCH = Batch(
    tokens_BS=np.arange(6).reshape(2, 3)[:, ::-1],
    labels_BS=np.arange(6).reshape(2, 3),
    loss_mask_BS=np.ones((2, 3), dtype=np.float32),
    document_ids_BS=None,
    sample_numbers_B=np.arange(2),
)


def test_every_array_of_a_batch_for_a_gpu_lies_in_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[int] = []
    chosen: list[torch.device] = []

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        locked.append(copy.data_ptr())
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(chosen.append(device)))
    found = pinned(BATCH, torch.device("cuda", 3))
    assert chosen == [torch.device("cuda", 3)]
    for field in fields(Batch):
        before, after = getattr(BATCH, field.name), getattr(found, field.name)
        if before is not None:
            np.testing.assert_array_equal(after, before)
            assert torch.from_numpy(after).data_ptr() in locked  # which the copy to the GPU starts from
    assert len(locked) == 4


def test_on_a_cpu_a_batch_is_left_as_it_is() -> None:
    assert pinned(BATCH, torch.device("cpu")) is BATCH
