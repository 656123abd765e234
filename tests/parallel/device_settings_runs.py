"""A rank of the tests of device settings: what was set when torch was first asked about CUDA."""

from __future__ import annotations

import os
from typing import Any

from megaphi.parallel.device_settings import CONNECTIONS, DETERMINISTIC
from megaphi.parallel.layout import ParallelLayout


def settings_at_first_touch(layout: ParallelLayout, deterministic: bool) -> dict[str, Any]:
    import pytest
    import torch

    from megaphi.parallel import cpu_emulation
    from megaphi.parallel.world import start_world

    names = (CONNECTIONS, *DETERMINISTIC)
    for name in names:
        os.environ.pop(name, None)
    seen: list[dict[str, str | None]] = []

    install = cpu_emulation.install

    def looking() -> bool:
        """The first call of a start that asks torch about a GPU."""
        seen.append({name: os.environ.get(name) for name in names})
        return install()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_emulation, "install", looking)
        world = start_world(layout, seed=1, deterministic=deterministic)
    return {"first": seen[0], "torch": torch.are_deterministic_algorithms_enabled(), "ranks": world.size}
