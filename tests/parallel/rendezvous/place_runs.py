"""Ranks of test_place.py."""

from __future__ import annotations

import os

from megaphi.errors import InputError
from megaphi.parallel import world
from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.rendezvous.place import Place, choose_gpu
from megaphi.parallel.world import start_world


def without_local_ranks() -> tuple[int, int]:
    """(local rank, ranks on this host) that a rank finds whose launcher said neither."""
    del os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]
    start_world(ParallelLayout(), seed=0)
    return int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])


def with_gpus(identities: tuple[str, ...], visible: int) -> str:
    """Message of a start where rank R sees `visible` GPUs, and the one that it would take has identity R."""

    def identity(place: Place) -> str:
        choose_gpu(place, visible=visible)
        return identities[place.rank]

    world.gpu_identity = identity  # stands for CUDA's answer: there is none here
    try:
        start_world(ParallelLayout(), seed=0)
    except InputError as error:
        return f"{type(error).__name__}: {error}"
    return "started"
