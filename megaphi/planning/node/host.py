"""The rest of a node: network ports, memory that may be locked or shared, disks, the clock.

Read from the kernel's files and system calls; nothing is asked of the network. Where InfiniBand ports are there, they
must be active and equally fast, as the slowest one sets the pace of all.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from megaphi.planning.node.finding import Finding

GIGABYTE = 1_000_000_000
SHARED_BYTES = GIGABYTE
"""Free space of /dev/shm, over which NCCL joins the ranks of a node; containers often have 64 MB."""
LEAST_SCRATCH = GIGABYTE


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """A port of an InfiniBand or RoCE adapter."""

    name: str
    """`mlx5_0:1`."""
    is_active: bool
    rate: str
    """`400 Gb/sec (4X NDR)`."""
    link: str
    """`InfiniBand` or `Ethernet`."""


def check_host(*, folder: Path, folder_bytes: int, scratch: Path | None = None, with_gpus: bool) -> list[Finding]:
    """Findings on the node around its GPUs; `folder`: of the run, with room for so many bytes."""
    adapters = ports()
    findings = [check_ports(adapters, wanted=os.environ.get("NCCL_IB_HCA", ""))]
    if with_gpus:
        findings.append(_shared_memory())
    if any(port.link == "InfiniBand" for port in adapters):
        findings.append(_locked_memory())
    findings.append(check_room("run folder", folder, folder_bytes))
    findings.append(check_room("scratch", scratch or Path(tempfile.gettempdir()), LEAST_SCRATCH))
    return [*findings, check_clock()]


def ports(system: Path = Path("/sys/class/infiniband")) -> list[Port]:
    """Every port of the adapters that the kernel lists."""
    return [
        Port(
            name=f"{port.parents[1].name}:{port.name}",
            is_active="ACTIVE" in _text(port / "state"),
            rate=_text(port / "rate"),
            link=_text(port / "link_layer"),
        )
        for port in sorted(system.glob("*/ports/*"))
    ]


def check_ports(found: list[Port], *, wanted: str) -> Finding:
    """The ports that carry the traffic of the GPUs: those of NCCL_IB_HCA, or all that speak InfiniBand.

    Ports of the kind Ethernet may be for anything, and are only counted, unless NCCL_IB_HCA names them.
    """
    used = [port for port in found if (_is_named(port, wanted) if wanted else port.link == "InfiniBand")]
    check = "network ports"
    if wanted and not used:
        return Finding(check=check, found=f"NCCL_IB_HCA={wanted} names none that is here", verdict="FAIL")
    if not used:
        others = f"{len(found)} of the kind Ethernet" if found else "none"
        return Finding(check=check, found=f"no InfiniBand: {others}" if found else "no InfiniBand here")
    down = [port.name for port in used if not port.is_active]
    if down:
        return Finding(check=check, found=f"not active: {', '.join(down)}, of {len(used)}", verdict="FAIL")
    rates = {port.rate for port in used}
    if len(rates) > 1:
        each = ", ".join(f"{port.name} {port.rate}" for port in used)
        return Finding(check=check, found=f"unequally fast: {each}", verdict="FAIL")
    return Finding(check=check, found=f"{len(used)} active, {rates.pop()}")


def _is_named(port: Port, wanted: str) -> bool:
    """As NCCL reads NCCL_IB_HCA: prefixes, `=` before exact names, `^` before those to leave out; ports after `:`."""
    is_excluded, is_exact = wanted.startswith("^"), "=" in wanted[:2]
    names = wanted.lstrip("^=").split(",")
    adapter = port.name.partition(":")[0]
    hits = (name in (port.name, adapter) if is_exact or ":" in name else port.name.startswith(name) for name in names)
    return any(hits) != is_excluded


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _shared_memory() -> Finding:
    free = shutil.disk_usage("/dev/shm").free
    is_short = free < SHARED_BYTES
    remedy = ": start the container with --shm-size=8g" if is_short else ""
    return Finding(
        check="shared memory", found=f"{free / GIGABYTE:.1f} GB free{remedy}", verdict="FAIL" if is_short else "ok"
    )


def _locked_memory() -> Finding:
    """InfiniBand locks the memory that it sends from (NCCL's guide, troubleshooting)."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY:
        return Finding(check="locked memory", found="unlimited")
    found = f"at most {limit / GIGABYTE:.3f} GB: InfiniBand needs `ulimit -l unlimited`"
    return Finding(check="locked memory", found=found, verdict="FAIL")


def check_room(check: str, folder: Path, least_bytes: int) -> Finding:
    """The folder, or the nearest above it that is there, takes a file and has room."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    try:
        free = shutil.disk_usage(there).free
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"written by megaphi doctor --node")
            file.flush()
    except OSError as error:
        return Finding(check=check, found=f"{there}: {error.strerror or error}", verdict="FAIL")
    found = f"{free / GIGABYTE:.0f} GB free at {there}"
    if free < least_bytes:
        return Finding(check=check, found=f"{found}, below {least_bytes / GIGABYTE:.0f} GB", verdict="FAIL")
    return Finding(check=check, found=found)


_UNSYNCHRONISED = 0x40
"""STA_UNSYNC of adjtimex(2)."""


def check_clock() -> Finding:
    """The kernel's own opinion of its clock; nothing but the times in logs depends on it, so it never fails a node."""
    state = (ctypes.c_long * 64)()  # struct timex: modes, offset, freq, maxerror, esterror, status, ...
    try:
        result = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(state))
    except (OSError, AttributeError):
        result = -1
    if result < 0:
        return Finding(check="clock", found="this system does not tell", verdict="unknown")
    status = state[5] & 0xFFFFFFFF
    if status & _UNSYNCHRONISED:
        return Finding(check="clock", found="no time server keeps it: logs of nodes may not line up", verdict="unknown")
    return Finding(check="clock", found=f"kept in time, within {state[3] / 1000:.0f} ms")
