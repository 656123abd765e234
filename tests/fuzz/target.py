"""Targets: readers of strangers' bytes, each with real inputs to damage and limits that it must keep.

A target's function takes the bytes of one input. It runs in a process of its own (`worker.py`), in an empty folder into
which it may write. It returns, perhaps with a reason why nothing was read, or raises `InputError`: everything else is a
finding. A file of `targets/` holds a family of them as `TARGETS`.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Mutator = Callable[[bytes, Sequence[bytes], random.Random], bytes]
"""Takes an input, all seeds and a source of chance; returns a damaged input. The same chance, the same damage."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One reader."""

    name: str
    run: Callable[[bytes], object]
    """Reads one input. A text that it returns is the reason why it has nothing of it; None means accepted."""
    seeds: Callable[[], Sequence[bytes]]
    """Inputs to damage; all are tried as they are first, and one input at least has to be accepted. Called in a process
    of its own.
    """
    crafted: Callable[[], Sequence[bytes]] = tuple
    """Hostile inputs that the long form tries as they are, before the others: bombs and the like."""
    mutators: tuple[Mutator, ...] = ()
    """Those that know the format's structure; those of plain bytes are used beside them (`mutators.py`)."""
    framed: float = 0.0
    """Share of the inputs that these alone damage: for formats in which plain damage ends at a checksum or a footer."""
    tokens: tuple[bytes, ...] = ()
    """Words of the format, put in anywhere."""
    suffixes: tuple[str, ...] = ()
    """Endings of real files, which `--seeds FOLDER` adds."""
    imports: tuple[str, ...] = ()
    """Modules to import once, before any worker starts. They must start no threads."""
    seconds: float = 10.0
    """CPU time of one input; the clock may take ten times as long."""
    memory_bytes: int = 512 << 20
    """Growth of the process by one input, at its peak. Processes that the target starts have the same limit."""
    short_inputs: int = 60
    """Inputs of the short form, in the suite."""


def all_targets() -> dict[str, Target]:
    """Every target by its name, in the order of the files of `targets/`."""
    files = sorted((Path(__file__).parent / "targets").glob("*.py"))
    modules = [importlib.import_module(f"tests.fuzz.targets.{file.stem}") for file in files]
    found = [target for module in modules for target in module.TARGETS]
    names = [target.name for target in found]
    assert len(set(names)) == len(names), f"two targets of one name: {sorted(names)}"
    return dict(zip(names, found, strict=True))
