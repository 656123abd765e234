"""The state of each block, in a file each, and a row of it for the results.

A block that is done, on the same device and commit, is not run again. Only the standard library is imported here.
"""

from __future__ import annotations

import csv
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from tools.first_gpu.machine import Machine

Status = Literal["done", "failed", "timed out", "left out"]


@dataclass(frozen=True)
class State:
    """The last attempt at a block."""

    date: str
    device: str
    driver: str
    python: str
    torch: str
    cuda: str
    peers: str
    """Versions of the other packages whose figures are compared."""
    commit: str
    block: str
    status: Status
    seconds: float
    last_line: str
    """The last of its output, or the reason for which it was left out."""

    def is_final(self, machine: Machine, commit: str) -> bool:
        """True if there is nothing to gain from another attempt."""
        return self.status == "done" and self.is_of(machine, commit)

    def is_of(self, machine: Machine, commit: str) -> bool:
        return self.device == machine.device and self.commit == commit


def read(folder: Path, block: str) -> State | None:
    """A block's state, None if it has none that can be read."""
    try:
        return State(**json.loads((folder / f"{block}.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write(folder: Path, results: Path, state: State) -> None:
    """Replace the block's state, whole, and append a row to first_gpu.csv."""
    partial = folder / f"{state.block}.json.partial"
    partial.write_text(json.dumps(asdict(state), indent=2) + "\n")
    os.replace(partial, folder / f"{state.block}.json")
    path = results / "first_gpu.csv"
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(State)], lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(state))
