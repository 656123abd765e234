"""Join the job: emulation where there is no GPU, torch.distributed, Megatron's process groups, random state.

`start_world` is the only way in. The ranks meet and are compared (meeting.py) before anything collective. A world of
one process opens no port. With gloo a rank that waits for a dead neighbour fails at once (the connection closes); with
NCCL after `timeout_seconds`.
"""

from __future__ import annotations

import atexit
import datetime
import gc
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.distributed as distributed
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from megaphi.config import leaves
from megaphi.errors import InputError
from megaphi.log import set_up_logging
from megaphi.parallel import cpu_emulation
from megaphi.parallel.differences import Facts
from megaphi.parallel.interface import choose_interface, local_address
from megaphi.parallel.layout import Coordinates, ParallelLayout
from megaphi.parallel.meeting import Arrival, meet
from megaphi.parallel.place import Place, choose_gpu, detect, export
from megaphi.parallel.seeds import model_seed

SECONDS_TO_DECLINE = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This rank's place in a running job."""

    rank: int
    size: int
    layout: ParallelLayout
    place: Coordinates
    device: torch.device
    device_name: str

    @property
    def is_main(self) -> bool:
        """Rank 0, which writes what belongs to the whole job."""
        return self.rank == 0

    @property
    def replica(self) -> int:
        return self.place.data

    @property
    def replicas(self) -> int:
        return self.size // self.layout.model_ranks


def start_world(
    layout: ParallelLayout, *, seed: int, facts: Callable[[], Facts] = dict, timeout_seconds: float = 600.0
) -> World:
    """Start or join torch.distributed and cut the world by `layout` (whose `data` may be open).

    `facts`, beside layout and seed, must be the same on all ranks; not asked for where there is one rank. May be called
    again in the same process with another layout: the groups are then made anew.

    Raises:
        InputError: ranks differ, do not come, or cannot be reached; on all ranks.
    """
    place = detect()
    layout = layout.for_world(place.world_size)
    emulated = cpu_emulation.install()
    timeout = datetime.timedelta(seconds=timeout_seconds)
    store: Store | None = None
    if not distributed.is_initialized():
        set_up_logging(rank=place.rank, world_size=place.world_size)
        store = HashStore() if place.world_size == 1 else _open_store(place, timeout=timeout)
        known = {"world size": str(place.world_size), "seed": json.dumps(seed)}
        known["device"] = "CPU" if emulated else "CUDA"
        known |= {f"layout.{name}": json.dumps(value) for name, value in leaves(layout)}
        place = _meet(place, store, lambda: {**known, **facts()}, timeout_seconds=timeout_seconds)
    device = torch.device("cpu") if emulated else _take_gpu(place)
    if store is not None:
        _join(place, store, device=device, timeout=timeout)
    _make_groups(layout, seed=seed)
    return World(
        rank=place.rank,
        size=place.world_size,
        layout=layout,
        place=layout.coordinates(place.rank),
        device=device,
        device_name="CPU" if emulated else torch.cuda.get_device_name(device),
    )


def _meet(place: Place, store: Store, facts: Callable[[], Facts], *, timeout_seconds: float) -> Place:
    """Compare this rank with the others, choose the way to them, and find out what no variable said of its place."""
    address = local_address(place.address, place.port or 0)
    me = Arrival(rank=place.rank, facts=facts() if place.world_size > 1 else {}, address=address)
    present = {0: me}
    if place.world_size > 1:
        present = meet(store, me, world_size=place.world_size, patience_seconds=timeout_seconds)
        choose_interface(address, [one.address for one in present.values()])
    if place.local_rank is None or place.local_world_size is None:
        ranks = [rank for rank, one in sorted(present.items()) if one.is_beside(me)]
        place = replace(place, local_rank=ranks.index(place.rank), local_world_size=len(ranks))
    export(place)
    return place


def _take_gpu(place: Place) -> torch.device:
    device = torch.device("cuda", choose_gpu(place, visible=torch.cuda.device_count()))
    torch.cuda.set_device(device)
    return device


def _join(place: Place, store: Store, *, device: torch.device, timeout: datetime.timedelta) -> None:
    backend = "gloo" if device.type == "cpu" else "nccl"
    distributed.init_process_group(backend, store=store, rank=place.rank, world_size=place.world_size, timeout=timeout)
    atexit.register(stop_world)


def decline(problem: str) -> None:
    """Tell the other ranks that this one cannot take part, so that they do not wait for it. Raises InputError."""
    place = detect()
    store = _open_store(place, timeout=datetime.timedelta(seconds=SECONDS_TO_DECLINE))
    me = Arrival(rank=place.rank, facts={}, problem=problem)
    meet(store, me, world_size=place.world_size, patience_seconds=SECONDS_TO_DECLINE)


def _open_store(place: Place, *, timeout: datetime.timedelta) -> Store:
    """The key-value store where ranks meet: rank 0 listens, except under torchrun's agent, which already does."""
    port = place.port or 0
    agent_listens = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = TCPStore(
            place.address,
            port,
            world_size=None if agent_listens else place.world_size,
            is_master=place.rank == 0 and not agent_listens,
            timeout=timeout,
            wait_for_workers=False,  # rank 0 does so itself, and says for whom (meeting.py)
        )
    except (distributed.DistNetworkError, RuntimeError) as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise InputError(
                f"port {port} on {place.address} is in use by another program: set MASTER_PORT to a free port"
            ) from None
        raise InputError(
            f"rank {place.rank} cannot reach rank 0 at {place.address}:{port} ({_first_line(error)}): "
            "check MASTER_ADDR and MASTER_PORT, and that rank 0 is running"
        ) from None
    # A restarted job must not find the keys of the one before.
    return PrefixStore(f"megaphi/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _make_groups(layout: ParallelLayout, *, seed: int) -> None:
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import random as megatron_random

    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.virtual_pipeline if layout.virtual_pipeline > 1 else None,
        context_parallel_size=layout.context,
        create_gloo_process_groups=False,
    )
    pipeline_rank = parallel_state.get_pipeline_model_parallel_rank()
    megatron_random.model_parallel_cuda_manual_seed(model_seed(seed, pipeline_rank=pipeline_rank), force_reset_rng=True)


@contextmanager
def pretended_world(layout: ParallelLayout, *, rank: int) -> Iterator[None]:
    """Process groups as `rank` of a world that does not exist: for building modules whose shapes alone matter."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    cpu_emulation.install()
    if distributed.is_initialized():
        raise RuntimeError("a pretended world cannot start inside a real one")
    distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=layout.world_size)
    try:
        _make_groups(layout, seed=0)
        yield
    finally:
        stop_world()


def stop_world() -> None:
    """Leave the job; safe to call twice."""
    if not distributed.is_initialized():
        return
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    gc.collect()
    distributed.destroy_process_group()
