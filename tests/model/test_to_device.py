"""Copies of what a pass computes on the host: from page-locked memory, as the batch itself. Not yet run on a GPU.

Page-locked memory is a list of addresses here, and what is copied to the GPU arrives on torch's meta device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core import parallel_state
from torch import Tensor

from megaphi.engine.objective import local
from megaphi.model.forward.flash_launch import FlashLaunch
from megaphi.model.forward.to_device import to_device

GPU = torch.device("cuda")
TOKENS_BS = np.arange(16).reshape(2, 8)


@pytest.fixture
def locked() -> list[Tensor]:
    """All page-locked memory, in the order in which it was taken."""
    return []


@pytest.fixture
def copied(locked: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, list[int]]]:
    """(whether it held up nobody, values) of each copy to the GPU."""
    found: list[tuple[bool, list[int]]] = []
    to: Callable[..., Tensor] = Tensor.to

    def is_pinned(tensor: Tensor) -> bool:
        return tensor.data_ptr() in [one.data_ptr() for one in locked]

    def pin_memory(tensor: Tensor) -> Tensor:
        locked.append(tensor.clone())
        return locked[-1]

    def watched(tensor: Tensor, *arguments: Any, **named: Any) -> Tensor:
        if GPU in arguments:
            found.append((is_pinned(tensor) and named.get("non_blocking", False), tensor.flatten().tolist()))
            return to(tensor, "meta")
        return to(tensor, *arguments, **named)

    for function in (is_pinned, pin_memory):
        monkeypatch.setattr(Tensor, function.__name__, function)
    monkeypatch.setattr(Tensor, "to", watched)
    return found


def test_a_batch_is_copied_from_where_it_lies(copied: list[Any], locked: list[Tensor]) -> None:
    batch_BS = torch.from_numpy(TOKENS_BS).pin_memory().numpy()
    assert local(batch_BS, GPU).is_meta
    assert copied == [(True, TOKENS_BS.flatten().tolist())]
    assert len(locked) == 1


def test_so_is_a_context_ranks_share_of_it(copied: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_state, "get_context_parallel_world_size", lambda: 2)
    monkeypatch.setattr(parallel_state, "get_context_parallel_rank", lambda: 0)
    local(TOKENS_BS, GPU)
    assert copied == [(True, TOKENS_BS[:, [0, 1, 6, 7]].flatten().tolist())]


def test_so_are_the_places_of_documents(copied: list[Any]) -> None:
    launch = FlashLaunch.of(np.array([[0, 3, 0, 0, 0, 3], [3, 8, 0, 2, 3, 8]], dtype=np.int32), device=GPU)
    assert (launch.longest_query, launch.longest_key) == (5, 7)
    assert copied == [(True, [0, 3, 8]), (True, [0, 3, 10]), (True, [0, 1, 2, 0, 1, 3, 4, 5, 6, 7])]


def test_on_a_cpu_nothing_is_copied(copied: list[Any]) -> None:
    values = np.arange(3)
    assert to_device(values, torch.device("cpu")).data_ptr() == values.ctypes.data
