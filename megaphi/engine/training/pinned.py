"""Batches in page-locked memory, from which a GPU copies while Python goes on.

They are put there by the thread that prefetches them. Copies from other memory would hold up the step.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from megaphi.data.batch import Batch


def pinned(batch: Batch, device: torch.device) -> Batch:
    """The batch for a GPU with all its arrays page-locked; for a CPU, the batch."""
    if device.type == "cpu":
        return batch
    arrays = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    with torch.cuda.device(device):  # threads begin on the first GPU, and would start another context there
        locked = {name: _pinned(value) for name, value in arrays.items() if isinstance(value, np.ndarray)}
    return dataclasses.replace(batch, **locked)


def _pinned(values: np.ndarray) -> np.ndarray:
    """A copy that keeps its tensor alive; torch's allocator waits for copies from it before it uses it again."""
    return torch.from_numpy(np.ascontiguousarray(values)).pin_memory().numpy()
