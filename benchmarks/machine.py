"""The description of the machine that goes into each line of results."""

from __future__ import annotations

import os

import torch


def machine() -> str:
    """The GPU's name where one is used, else how many processors there are."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {len(os.sched_getaffinity(0))} processors"


def settled() -> None:
    """Wait until the GPU has done what it was given: in front of every look at the clock."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
