"""What the ranks of test_place.py run."""

from __future__ import annotations

import os

from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.world import start_world


def without_local_ranks() -> tuple[int, int]:
    """(local rank, ranks on this host) that a rank finds whose launcher said neither."""
    del os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]
    start_world(ParallelLayout(), seed=0)
    return int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
