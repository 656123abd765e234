"""Speed and memory of a run: tokens per second, model FLOP/s per device, their share of the peak where it is known.

What this measures costs no collective and no synchronisation: the clock, and counters that the kernel and torch keep.
"""

from __future__ import annotations

import resource
import time

import torch

from megaphi.engine.run_config import RunConfig
from megaphi.model.arithmetic import PEAK_BF16_FLOPS, flops_per_token
from megaphi.parallel.world import World


class Meter:
    """Speedometer of a run. Call `step` after each optimizer step, and `restart` after validation and saving."""

    def __init__(self, run: RunConfig, world: World) -> None:
        self._model = run.model
        self._devices, self._device = world.size, world.device
        self._peak = PEAK_BF16_FLOPS.get(world.device_name)
        self._since = time.perf_counter()

    def restart(self) -> None:
        """Restart the clock: the time since the last step does not count."""
        self._since = time.perf_counter()

    def step(self, tokens: int, *, sequence_length: int) -> dict[str, float]:
        """Duration, rates and memory after the step that has just ended; `mfu` on a device whose peak is known."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        per_token = flops_per_token(self._model, sequence_length=sequence_length)
        flops = tokens / seconds * per_token / self._devices
        measured = {
            "seconds": round(seconds, 6),
            "tokens_per_second": round(tokens / seconds, 3),
            "tokens_per_second_per_device": round(tokens / seconds / self._devices, 3),
            "teraflops_per_device": round(flops / 1e12, 6),
        }
        if self._peak is not None:
            measured["mfu"] = round(flops / self._peak, 6)
        return measured | peak_memory(self._device)


def peak_memory(device: torch.device) -> dict[str, int]:
    """Most memory that this process has had so far: resident on the host, and allocated on its GPU."""
    found = {"host_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024}
    if device.type == "cuda":
        found["device_memory_bytes"] = torch.cuda.max_memory_allocated(device)
    return found
