"""A limit of memory for a part of the work of this process, which the kernel keeps.

It is one of address space: what wants more gets no memory, which is MemoryError in Python and in Arrow. The whole
process has it meanwhile, other threads too, so it is for single calls that work on the bytes of strangers, one at a
time. Where there is no /proc (on a Mac) there is none.
"""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZES = Path("/proc/self/statm")
_one_at_a_time = threading.Lock()


@contextmanager
def growing_by_at_most(bytes_of_memory: int) -> Iterator[None]:
    """Let the process grow by so many bytes until the end of the block; a limit that is lower remains."""
    if not SIZES.exists():
        yield
        return
    with _one_at_a_time:
        usual, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = _address_space() + bytes_of_memory
        if usual != resource.RLIM_INFINITY:
            limit = min(limit, usual)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (usual, most))


def _address_space() -> int:
    """Bytes of it that the process has."""
    return int(SIZES.read_text().split()[0]) * resource.getpagesize()
