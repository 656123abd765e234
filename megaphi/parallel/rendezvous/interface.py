"""The network interface for a job's traffic: the one that reaches rank 0, for gloo and for NCCL.

By default gloo uses the address of the host's name, which is 127.0.1.1 on many systems, and then waits for other hosts
for ever; NCCL uses the first interface that is up. The route to MASTER_ADDR is known to work, because the store uses
it. On the host of rank 0 that route may be loopback; there the route to any other host is used instead. A job on one
host stays on loopback. Variables that the user has set are left alone.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import MutableMapping, Sequence
from contextlib import closing

import psutil

from megaphi.log import logger


def local_address(host: str, port: int) -> str:
    """Our own address on the route to `host`, or "" without a route; nothing is sent."""
    try:
        found = socket.getaddrinfo(host, port or 1, type=socket.SOCK_DGRAM)
    except OSError:
        return ""
    for family, kind, protocol, _, destination in found:
        with closing(socket.socket(family, kind, protocol)) as probe:
            try:
                probe.connect(destination)
                return str(probe.getsockname()[0])
            except OSError:
                continue
    return ""


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.split("%")[0]).is_loopback


def interface_of(address: str) -> str | None:
    """Name of the interface that has an address."""
    wanted = address.split("%")[0]
    for name, found in psutil.net_if_addrs().items():
        if any(one.address.split("%")[0] == wanted for one in found):
            return name
    return None


def choose_interface(
    mine: str, addresses: Sequence[str], environment: MutableMapping[str, str] = os.environ
) -> str | None:
    """Set the interface for gloo and NCCL; returns its name.

    Args:
        mine: this rank's address on the route to rank 0.
        addresses: the same of every rank.
    """
    away = [address for address in addresses if address and not is_loopback(address)]
    if mine and is_loopback(mine) and away:
        mine = local_address(away[0], 0)
    name = interface_of(mine) if mine else None
    if name is None:
        return None
    _set(environment, "GLOO_SOCKET_IFNAME", name)
    if away:  # NCCL may not want loopback where it has shared memory
        _set(environment, "NCCL_SOCKET_IFNAME", f"={name}")
    return name


def _set(environment: MutableMapping[str, str], variable: str, value: str) -> None:
    if variable not in environment:
        environment[variable] = value
        logger.debug("%s=%s", variable, value)
