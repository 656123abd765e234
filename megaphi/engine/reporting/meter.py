"""Speed of a run: tokens per second, model FLOP/s per device, and their share of the peak where it is known."""

from __future__ import annotations

import time

from megaphi.engine.run_config import RunConfig
from megaphi.model.arithmetic import PEAK_BF16_FLOPS, flops_per_token
from megaphi.parallel.world import World


class Meter:
    """Speedometer of a run. Call `step` after each optimizer step, and `restart` after validation and saving."""

    def __init__(self, run: RunConfig, world: World) -> None:
        self._model = run.model
        self._devices = world.size
        self._peak = PEAK_BF16_FLOPS.get(world.device_name)
        self._since = time.perf_counter()

    def restart(self) -> None:
        """Restart the clock: the time since the last step does not count."""
        self._since = time.perf_counter()

    def step(self, tokens: int, *, sequence_length: int) -> dict[str, float]:
        """Duration and rates of the step that has just ended; `mfu` on a device whose peak is known."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        per_token = flops_per_token(self._model, sequence_length=sequence_length)
        flops = tokens / seconds * per_token / self._devices
        measured = {
            "seconds": round(seconds, 6),
            "tokens_per_second": round(tokens / seconds, 3),
            "teraflops_per_device": round(flops / 1e12, 6),
        }
        if self._peak is not None:
            measured["mfu"] = round(flops / self._peak, 6)
        return measured
