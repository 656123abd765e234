"""How fast a run is: tokens per second, and the share of the devices' peak where the peak is known."""

from __future__ import annotations

import time

from megaphi.engine.run_config import RunConfig
from megaphi.model.arithmetic import PEAK_BF16_FLOPS, model_flops_utilisation
from megaphi.parallel.world import World


class Meter:
    """Call `step` once after each optimizer step; time spent in `pause` (validation, saving) does not count."""

    def __init__(self, run: RunConfig, world: World) -> None:
        self._run = run
        self._devices = world.size
        self._peak = PEAK_BF16_FLOPS.get(world.device_name)
        self._since = time.perf_counter()

    def restart(self) -> None:
        """Do not count the time since the last step."""
        self._since = time.perf_counter()

    def step(self, tokens: int) -> dict[str, float]:
        """`seconds`, `tokens_per_second` and, on a known device, `mfu` of the step that has just ended."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        rate = tokens / seconds
        measured = {"seconds": round(seconds, 6), "tokens_per_second": round(rate, 3)}
        if self._peak is not None:
            measured["mfu"] = model_flops_utilisation(
                rate,
                self._run.model,
                sequence_length=self._run.batch.sequence_length,
                devices=self._devices,
                peak_flops=self._peak,
            )
        return measured
