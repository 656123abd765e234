"""torch's flight recorder of this process: which collectives it has started, the last of each group, a dump on disk.

The recorder keeps the last collectives of every process group with sizes, types and Python stacks. Its counters cost
microseconds and are read with every heartbeat; its entries cost tens of milliseconds and are read when a rank stands
still; stacks are written when a job ends. gloo records collectives but no messages between two ranks (torch 2.13).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as distributed
from torch._C import _distributed_c10d as c10d

from megaphi.log import logger

ENTRIES = 2_000
"""Collectives that are kept, if the user has not set TORCH_FR_BUFFER_SIZE."""
PREFIX = "trace_rank_"
"""Name of a dump, before the rank: what torch's own reader of dumps takes too."""


class LastOperation(NamedTuple):
    """The collective that a rank started last in a process group."""

    name: str
    """`all_reduce`."""
    number: int
    """Its sequence number in the group."""
    group: str
    """Purpose of the group."""


def switch_on(folder: Path | None = None) -> None:
    """Keep entries; once the folder for dumps is known, NCCL's watchdog writes its own there when it times out."""
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", str(ENTRIES))
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
    if folder is not None:
        os.environ.setdefault("TORCH_FR_DUMP_TEMP_FILE", str(folder / PREFIX))


def collectives_started() -> int:
    """Collectives that this rank has started in all groups: a number that grows while it moves; 0 if unknown."""
    status = _told(includeCollectives=False).get("pg_status", {})
    return sum(int(group.get("last_enqueued_collective", 0)) for group in status.values())


def last_operations() -> dict[str, LastOperation]:
    """The last collective of each process group, by the group's name, which is the same on all its ranks."""
    found: dict[str, LastOperation] = {}
    for entry in _told().get("entries", []):
        if not entry.get("is_p2p"):
            name, purpose = entry.get("process_group", ("?", "?"))
            operation = entry.get("profiling_name", "?").rpartition(":")[2]
            found[name] = LastOperation(operation, int(entry.get("collective_seq_id", 0)), _readable(purpose))
    return found


def _told(**options: bool) -> dict[str, Any]:
    """The recorder's content; empty where this build of torch has none: an observer must not end a job."""
    try:
        return json.loads(_function("trace_json")(**options))
    except Exception:
        logger.debug("the flight recorder cannot be read", exc_info=True)
        return {}


def write_dump(folder: Path, *, rank: int) -> Path:
    """Write the recorder's entries with their stacks; takes up to a second."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{PREFIX}{rank}"
    path.write_bytes(_function("trace")())
    return path


def _function(name: str) -> Callable[..., Any]:
    """torch's dump of the recorder that this process's backend writes to: NCCL has its own."""
    backend = distributed.get_backend() if distributed.is_initialized() else "gloo"
    return getattr(c10d, f"_dump_{'nccl' if backend == 'nccl' else 'fr'}_{name}")


def _readable(purpose: str) -> str:
    return purpose.removesuffix("_GROUP").lower().replace("_", " ") if purpose != "default_pg" else "all ranks"
