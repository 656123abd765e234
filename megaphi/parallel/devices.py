"""Devices of this machine for the ranks of a job, and the layout that fits them.

A rank computes on a GPU of its own if torch sees any; otherwise all ranks share the CPU. `CUDA_VISIBLE_DEVICES=`
(empty) in front of a command makes everything run on the CPU, on any machine. That is the only way to force it, and
every process that the command starts inherits it.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.rendezvous.place import Place, choose_gpu

ON_THE_CPU = "CUDA_VISIBLE_DEVICES="
"""Prefix of a command that hides all GPUs from it."""
ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""Device files of Linux, and of Linux inside Windows: without one there is no GPU, and torch is not imported."""


def gpus() -> int:
    """Number of GPUs that ranks on this machine can use; 0: they share the CPU."""
    if not any(driver.exists() for driver in _DRIVERS):
        return 0
    import torch

    # Under emulation device_count says 1; is_available is never emulated.
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpu_identity(place: Place) -> str:
    """The UUID of the GPU that this rank will use, which does not depend on its number in this process.

    Empty without a GPU, and as long as the local rank is not known.

    Raises:
        InputError: the rank sees no GPU of its own.
    """
    visible = gpus()
    if visible == 0 or (visible > 1 and place.local_rank is None):
        return ""
    import torch

    properties = torch.cuda.get_device_properties(choose_gpu(place, visible=visible))
    return str(getattr(properties, "uuid", ""))


MOST_PER_CORE = 64
"""Ranks that may share a core: all of them wait for each other."""


def check_processes(processes: int) -> None:
    """Refuse to start more ranks here than there are GPUs, of which two ranks on one hang or fail in NCCL; without
    GPUs, more than this machine's cores can bear.
    """
    found, most = gpus(), MOST_PER_CORE * (os.cpu_count() or 1)
    if processes > most:
        raise InputError(f"{processes} processes, and this machine can take {most} at most: start fewer")
    if 0 < found < processes:
        raise InputError(
            f"{processes} processes, but this machine has {found} GPU{'s' if found > 1 else ''}: start at most {found}"
            f" with a layout that fits (layout.tensor=1 layout.pipeline=1, say), or run on the CPU: "
            f"{ON_THE_CPU} megaphi ..."
        )


def fitting(layout: ParallelLayout, *, gpus: int) -> ParallelLayout:
    """The layout if it fits `gpus` devices or there are none; else its dimensions cut down to fit, tensor first."""
    ranks = layout.model_ranks * (layout.data or 1)
    if not 0 < gpus < ranks:
        return layout
    fits: dict[str, Any] = {}
    taken = 1
    for name in ("tensor", "pipeline", "context", "data"):
        ways = getattr(layout, name) or 1
        fits[name] = ways if taken * ways <= gpus else 1
        taken *= fits[name]
    if fits["pipeline"] == 1:
        fits |= {"virtual_pipeline": 1, "stage_layers": ()}
    return dataclasses.replace(layout, **fits)


def as_fields(layout: ParallelLayout, *, instead_of: ParallelLayout) -> list[str]:
    """Command-line arguments that change a recipe's layout into this one."""
    names = [field.name for field in dataclasses.fields(ParallelLayout)]
    return [
        f"layout.{name}={_as_text(getattr(layout, name))}"
        for name in names
        if getattr(layout, name) != getattr(instead_of, name)
    ]


def _as_text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def let_memory_grow() -> None:
    """Let torch map a GPU's memory as it is needed, not in blocks that fragment. Call it before anything is allocated.

    A user's own settings of the allocator are left as they are.
    """
    import torch

    if not any(name in os.environ for name in ALLOCATOR_VARIABLES):
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
