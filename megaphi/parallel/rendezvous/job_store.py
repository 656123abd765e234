"""Two connections to the job's key-value store: one for torch and the meeting of the ranks, one for the heartbeat.

Rank 0 listens, at the address of MASTER_ADDR only, except under torchrun's agent, which already does, on every
interface. Connecting may block indefinitely, so it happens in a thread; every 15 seconds the main thread reports what
it waits for and what answers there, and after a limit it gives up with one message.
"""

from __future__ import annotations

import datetime
import errno
import os
import resource
import socket
import time
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import torch.distributed as distributed
from torch._C._distributed_c10d import PrefixStore, TCPStore

from megaphi.errors import InputError
from megaphi.log import host_name, logger
from megaphi.parallel.rendezvous.place import Place, is_loopback
from megaphi.parallel.rendezvous.signed_store import SECRET, SignedStore, job_secret

SAY_EVERY_SECONDS = 15.0

Connections = tuple[SignedStore, SignedStore]


def open_store(place: Place, *, start_seconds: float, operation_seconds: float) -> Connections:
    """Connect to rank 0, twice.

    Args:
        start_seconds: how long to try.
        operation_seconds: timeout of requests for a key, in which torch's communicators wait for each other.

    Raises:
        InputError: rank 0 cannot be reached in this time, or its port is another program's.
    """
    outcome: SimpleQueue[Connections | Exception] = SimpleQueue()
    seconds = (start_seconds, operation_seconds)
    Thread(target=_connect, args=(place, *seconds, outcome), name="job store", daemon=True).start()
    began, said = time.monotonic(), 0.0
    while True:
        waited = time.monotonic() - began
        try:
            found = outcome.get(timeout=max(0.0, min(said + SAY_EVERY_SECONDS, start_seconds) - waited))
        except Empty:
            said = time.monotonic() - began
            waits = f"rank {place.rank} on {host_name()} waits for rank 0 at {place.address}:{place.port}"
            waits += f" ({_how_it_looks(place)})"
            if said >= start_seconds:
                raise InputError(f"{waits}, in vain for {said:.0f} s (patience.start_seconds)") from None
            logger.warning("%s: %.0f s of %.0f", waits, said, start_seconds)
            continue
        if isinstance(found, Exception):
            raise found
        return found


def warn_without_secret(place: Place) -> None:
    """Report on rank 0 of a job of several hosts that its ranks have no secret by which to know each other."""
    if place.rank == 0 and place.local_world_size != place.world_size and not job_secret():
        logger.warning(
            "%s is not set: whoever reaches %s:%s can take part in this job; give all its ranks the same random text",
            SECRET,
            place.address,
            place.port,
        )


def _connect(
    place: Place, start_seconds: float, operation_seconds: float, outcome: SimpleQueue[Connections | Exception]
) -> None:
    try:
        # A restarted job must not find the keys of the one before; torchrun does not count a change of its nodes.
        prefix = f"megaphi/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{place.world_size}"
        listens = place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        stores: list[SignedStore] = []
        for is_master in (listens, False):
            store = _client(place, is_master=is_master, seconds=start_seconds)
            store.set_timeout(datetime.timedelta(seconds=operation_seconds))
            stores.append(SignedStore(PrefixStore(prefix, store)))
        outcome.put((stores[0], stores[1]))
    except Exception as error:
        outcome.put(error)


def _client(place: Place, *, is_master: bool, seconds: float) -> TCPStore:
    port = place.port or 0
    try:
        return TCPStore(
            place.address,
            port,
            is_master=is_master,
            timeout=datetime.timedelta(seconds=seconds),
            wait_for_workers=False,  # rank 0 does so itself, and names the ranks (meeting.py)
            master_listen_fd=_listen(place) if is_master else None,
        )
    except (distributed.DistError, RuntimeError, OSError) as error:
        if "address already in use" in str(error).lower():
            raise InputError(
                f"port {port} on {place.address} is in use by another program: set MASTER_PORT to a free port"
            ) from None
        raise InputError(
            f"rank {place.rank} cannot reach rank 0 at {place.address}:{port} ({_first_line(error)}): "
            "check MASTER_ADDR and MASTER_PORT, and that rank 0 is running"
        ) from None


def _listen(place: Place) -> int:
    """Open rank 0's port; the descriptor of the socket, which torch takes over.

    At this host's own address by which the other ranks know it. Where that is none, they come through another machine,
    or by a name that means the loopback here (127.0.1.1 in Debian's /etc/hosts): then on every interface.
    """
    _allow_many_connections()
    family, *_, where = socket.getaddrinfo(place.address, place.port or 0, type=socket.SOCK_STREAM)[0]
    spans_hosts = place.local_world_size != place.world_size
    if spans_hosts and is_loopback(str(where[0])) and not is_loopback(place.address):
        return _listen_everywhere(place, family, f"{place.address} is {where[0]} on this host")
    try:
        return _listening(family, where)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return _listen_everywhere(place, family, f"{place.address} is no address of this host")


def _listen_everywhere(place: Place, family: int, reason: str) -> int:
    logger.warning("the job's store listens on every interface: %s", reason)
    return _listening(family, ("", place.port or 0))


def _listening(family: int, where: Any) -> int:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(socket.SOMAXCONN)
    except OSError:
        listener.close()
        raise
    return listener.detach()


def _how_it_looks(place: Place) -> str:
    """Describe the state of rank 0's port, seen from here."""
    try:
        with socket.create_connection((place.address, place.port or 0), timeout=2.0):
            return "something listens there but does not answer: rank 0 of this job, or another program?"
    except OSError as error:
        return f"{error.strerror or 'no answer'}: check MASTER_ADDR and MASTER_PORT, and that rank 0 is running"


def _allow_many_connections() -> None:
    """Raise the limit of open files: every rank holds two connections to rank 0, and the usual limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
