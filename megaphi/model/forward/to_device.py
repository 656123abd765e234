"""Host values on a device, without waiting for it.

A copy from ordinary memory makes the host wait until a GPU has done all that it was given; from page-locked memory the
GPU copies when it comes to it. torch's allocator keeps that memory until then. The arrays of a batch lie there already
(engine/training/pinned.py); what a pass makes of them, such as a context rank's share of the tokens, is put there here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_device(values: Any, device: torch.device, *, dtype: torch.dtype | None = None) -> Tensor:
    """A list, an array or a tensor on the host as a tensor on the device; on a CPU it may share an array's memory."""
    found = torch.as_tensor(values, dtype=dtype)
    if device.type != "cuda" or not found.numel():
        return found.to(device)
    return (found if found.is_pinned() else found.pin_memory()).to(device, non_blocking=True)
