"""Limits on the programs of a test: on each process, or on all together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from megaphi.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of one test: all positive, or `InputError`."""

    cpu_seconds: int = 10
    """Each process's."""
    wall_seconds: float = 30.0
    """The whole test's; more than CPU time, because on a busy machine a program waits without being at fault."""
    memory_bytes: int = 512 << 20
    """All processes together, looked at 50 times a second; one process cannot reserve much more (`address_bytes`)."""
    address_bytes: int = 256 << 20
    """Address space of a process beyond `memory_bytes`: the interpreter itself, stacks of threads."""
    processes: int = 32
    """Processes and threads of a box, its own four included."""
    open_files: int = 128
    output_bytes: int = 4 << 20
    """The longest value, or text of standard output, as JSON."""
    file_bytes: int = 32 << 20
    """The largest file."""
    folder_bytes: int = 64 << 20
    """All files together."""
    files: int = 2_000

    def __post_init__(self) -> None:
        for name, most in asdict(self).items():
            if not most > 0:
                raise InputError(f"{name}={most}: a limit is a positive number")

    def as_message(self) -> dict[str, Any]:
        return asdict(self)
