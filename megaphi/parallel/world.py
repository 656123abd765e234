"""Join the job: emulation where there is no GPU, torch.distributed, Megatron's process groups, random state.

`start_world` is the only entry. A world of one process opens no port. In a larger one the ranks meet in the job's store
and are compared (rendezvous/meeting.py) before any collective; from then on until `stop_world` a heartbeat ends the job
when one of them falls silent.
"""

from __future__ import annotations

import atexit
import datetime
import gc
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.distributed as distributed
from torch._C._distributed_c10d import HashStore, Store

from megaphi.config import leaves
from megaphi.errors import InputError
from megaphi.log import host_name, set_up_logging
from megaphi.parallel import cpu_emulation
from megaphi.parallel.activity import Activity
from megaphi.parallel.device_settings import set_up_devices, warn_of_connections
from megaphi.parallel.devices import gpu_identity, let_memory_grow
from megaphi.parallel.layout import Coordinates, ParallelLayout
from megaphi.parallel.liveness import flight_recorder
from megaphi.parallel.liveness.beats import FIRST, Person
from megaphi.parallel.liveness.heartbeat import Heartbeat, Listener
from megaphi.parallel.liveness.patience import Patience
from megaphi.parallel.rendezvous.differences import Facts
from megaphi.parallel.rendezvous.interface import choose_interface, local_address
from megaphi.parallel.rendezvous.job_store import Connections, open_store, warn_without_secret
from megaphi.parallel.rendezvous.meeting import Arrival, meet
from megaphi.parallel.rendezvous.place import Place, choose_gpu, detect, export, without_launchers
from megaphi.parallel.rendezvous.signed_store import SignedStore
from megaphi.parallel.seeds import model_seed

SECONDS_TO_DECLINE = 60.0
USUAL_PATIENCE = Patience()
_activity = Activity()
_heartbeat: Heartbeat | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This rank's place in a running job."""

    rank: int
    size: int
    layout: ParallelLayout
    place: Coordinates
    device: torch.device
    device_name: str
    activity: Activity = field(default_factory=Activity, compare=False)
    """This rank's activity, as reported to the others."""

    @property
    def is_main(self) -> bool:
        """True on rank 0, which writes the files of the whole job."""
        return self.rank == 0

    @property
    def replica(self) -> int:
        return self.place.data

    @property
    def replicas(self) -> int:
        return self.size // self.layout.model_ranks


def start_world(
    layout: ParallelLayout,
    *,
    seed: int,
    facts: Callable[[], Facts] = dict,
    patience: Patience = USUAL_PATIENCE,
    deterministic: bool = False,
) -> World:
    """Start or join torch.distributed and divide the world by `layout` (whose `data` may be open).

    Layout, seed and `facts` must be the same on all ranks; `facts` is not called if there is one rank. A second call in
    the same process, with another layout, rebuilds the groups.

    Raises:
        InputError: ranks differ, are missing, or cannot be reached; on all ranks.
    """
    place = detect()
    layout = layout.for_world(place.world_size)
    set_up_devices(layout, deterministic=deterministic)
    emulated = cpu_emulation.install()
    store: Store | None = None
    if not distributed.is_initialized():
        if not emulated:
            let_memory_grow()
        set_up_logging(rank=place.rank, world_size=place.world_size)
        warn_of_connections(layout)
        known = {"world size": str(place.world_size), "seed": json.dumps(seed)}
        known["device"] = "CPU" if emulated else "CUDA"
        known |= {f"layout.{name}": json.dumps(value) for name, value in leaves(layout)}
        place, store = _meet(place, layout, lambda: {**known, **facts()}, patience)
    device = torch.device("cpu") if emulated else _take_gpu(place)
    if store is not None:
        _join(place, store, device=device, timeout_seconds=patience.collective_seconds)
    _make_groups(layout, seed=seed, timeout_seconds=patience.collective_seconds)
    return World(
        rank=place.rank,
        size=place.world_size,
        layout=layout,
        place=layout.coordinates(place.rank),
        device=device,
        device_name="CPU" if emulated else torch.cuda.get_device_name(device),
        activity=_activity,
    )


def _meet(place: Place, layout: ParallelLayout, facts: Callable[[], Facts], patience: Patience) -> tuple[Place, Store]:
    """Compare this rank with the others, choose the network interface, and complete its place (local rank)."""
    if place.world_size == 1:
        export(place)
        return place, HashStore()
    stores = _connections(place, patience)
    address = local_address(place.address, place.port or 0)
    me = _arrival(place, facts(), address)
    stores[0].set(f"beat/{place.rank}", json.dumps(FIRST))  # before anything reads it
    warn_without_secret(place)
    present = meet(stores[0], me, world_size=place.world_size, patience_seconds=patience.start_seconds)
    choose_interface(address, [one.address for one in present.values()])
    if place.local_rank is None or place.local_world_size is None:
        ranks = [rank for rank, one in sorted(present.items()) if one.is_beside(me)]
        place = replace(place, local_rank=ranks.index(place.rank), local_world_size=len(ranks))
    export(place)
    _start_heartbeat(stores[1], [present[rank] for rank in range(place.world_size)], layout, patience, rank=place.rank)
    return place, stores[0].plain


def _arrival(place: Place, facts: Facts, address: str) -> Arrival:
    gpu = problem = ""
    try:
        gpu = gpu_identity(place)
    except InputError as error:
        problem = str(error)
    return Arrival(rank=place.rank, facts=facts, address=address, gpu=gpu, problem=problem)


def _connections(place: Place, patience: Patience) -> Connections:
    return open_store(
        place, start_seconds=patience.start_seconds, operation_seconds=max(patience.collective_seconds, 60.0)
    )


def _start_heartbeat(
    store: SignedStore, present: Sequence[Arrival], layout: ParallelLayout, patience: Patience, *, rank: int
) -> None:
    global _heartbeat
    if patience.heartbeat_seconds:
        people = [Person(host=one.host, pid=one.pid) for one in present]
        peers = [layout.coordinates(one).pipeline for one in range(len(present))]
        _heartbeat = Heartbeat(store, rank=rank, people=people, doing=_activity, patience=patience, peers=peers)
        _heartbeat.start()


def keep_evidence(folder: Path, listener: Listener) -> None:
    """From now on, write dumps of the flight recorder to `folder` when the job ends in error, and report events."""
    flight_recorder.switch_on(folder)
    if _heartbeat is not None:
        _heartbeat.folder, _heartbeat.listener = folder, listener


def _take_gpu(place: Place) -> torch.device:
    device = torch.device("cuda", choose_gpu(place, visible=torch.cuda.device_count()))
    torch.cuda.set_device(device)
    return device


def _join(place: Place, store: Store, *, device: torch.device, timeout_seconds: float) -> None:
    backend = "gloo" if device.type == "cpu" else "nccl"
    flight_recorder.switch_on()
    distributed.init_process_group(
        backend,
        store=store,
        rank=place.rank,
        world_size=place.world_size,
        timeout=datetime.timedelta(seconds=timeout_seconds),
    )
    atexit.register(stop_world)


def decline(problem: str) -> None:
    """Report to the other ranks that this one cannot take part, so that they do not wait. Raises InputError."""
    place = detect()
    store, _ = _connections(place, Patience(start_seconds=SECONDS_TO_DECLINE))
    me = Arrival(rank=place.rank, facts={}, problem=problem)
    meet(store, me, world_size=place.world_size, patience_seconds=SECONDS_TO_DECLINE)


def has_lost_contact(error: BaseException) -> bool:
    """Return whether this is the error that communication raises on the ranks that are still alive."""
    signs = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, distributed.DistError):
            return True
        if isinstance(cause, RuntimeError) and any(sign in str(cause) for sign in signs):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def end_in_error(error: BaseException) -> str:
    """Tell the other ranks that this one ends with an error; returns a message if the cause is another rank.

    If contact was lost, this waits until the heartbeat knows with whom, and the process ends in here.
    """
    place = f"rank {os.environ.get('RANK', '0')} on {host_name()}"
    message = f"{place} lost contact with another rank in step {_activity.step}, {_activity.phase}, and ends"
    is_alone = not distributed.is_initialized() or distributed.get_world_size() == 1
    if _heartbeat is None:
        return message if has_lost_contact(error) and not is_alone else ""
    if not has_lost_contact(error):
        _heartbeat.fail(f"{type(error).__name__}: {error}")
        return ""
    _heartbeat.explain(message, problem=str(error).splitlines()[0] if str(error) else type(error).__name__)
    return message


def _make_groups(layout: ParallelLayout, *, seed: int, timeout_seconds: float = 600.0) -> None:
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
        distributed_timeout_minutes=timeout_seconds / 60,  # pyright: ignore[reportArgumentType] (goes into a timedelta)
    )
    pipeline_rank = parallel_state.get_pipeline_model_parallel_rank()
    megatron_random.model_parallel_cuda_manual_seed(model_seed(seed, pipeline_rank=pipeline_rank), force_reset_rng=True)


@contextmanager
def world_of_one(*, seed: int, deterministic: bool = False) -> Iterator[World]:
    """A world of this process alone, before it joins its job: what a layout is compared with is computed in it."""
    if distributed.is_initialized():
        raise RuntimeError("a process that has joined its job cannot be alone any more")
    place, environment = detect(), dict(os.environ)
    os.environ.clear()
    os.environ.update(without_launchers(environment), RANK="0", WORLD_SIZE="1", LOCAL_RANK=str(place.local_rank or 0))
    try:
        yield start_world(ParallelLayout(), seed=seed, deterministic=deterministic)
    finally:
        stop_world()
        os.environ.clear()
        os.environ.update(environment)


@contextmanager
def pretended_world(layout: ParallelLayout, *, rank: int) -> Iterator[None]:
    """Process groups of `rank` in a world that does not exist, to build modules of which only shapes matter."""
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
    global _heartbeat
    if not distributed.is_initialized():
        return
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    gc.collect()
    distributed.destroy_process_group()
    if _heartbeat is not None:
        _heartbeat.stop()
        _heartbeat = None
