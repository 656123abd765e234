"""Who started this process, and as which rank: torchrun, Open MPI, MPICH/Hydra, Slurm, or we ourselves.

`detect` reads the launcher's environment variables into one `Place`; `export` writes it in torch's spelling, so that
everything after it sees one scheme. `start_processes` is the launcher for one machine: it starts N copies of a
command, passes signals on, and when one of them dies it ends the others, so that a dead rank never leaves a hang.
Standard library only: the parent process that waits for the ranks imports neither torch nor Megatron.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from megaphi.errors import InputError

GRACE_SECONDS = 20.0
"""How long the other ranks may take to end by themselves once one has failed, before they are killed."""
_LAUNCHERS = (
    # name, rank, world size, local rank, local world size
    ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    (
        "Open MPI",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("Hydra", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """This process among the processes of a job."""

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str
    port: int | None
    """Where rank 0 listens; None in a job of one process, which needs no port."""


def detect(environment: Mapping[str, str] = os.environ) -> Place:
    """This process's place, from whichever launcher's variables are set; alone if there are none."""
    for name, rank, size, local_rank, local_size in _LAUNCHERS:
        # A shell inside a Slurm allocation also has SLURM_NTASKS; only srun gives a step to its processes.
        inside_step = name != "Slurm" or "SLURM_STEP_ID" in environment
        if rank in environment and size in environment and inside_step:
            return _place(environment, name, rank, size, local_rank, local_size)
    return Place(
        launcher="single", rank=0, world_size=1, local_rank=0, local_world_size=1, address="127.0.0.1", port=None
    )


def _place(environment: Mapping[str, str], name: str, rank: str, size: str, local_rank: str, local_size: str) -> Place:
    world_size = _integer(environment, size)
    # Slurm writes 8(x4) for four nodes of eight tasks.
    per_node = environment.get(local_size, str(world_size)).split("(")[0]
    local_world_size = int(per_node) if per_node.isdigit() else world_size
    return Place(
        launcher=name,
        rank=_integer(environment, rank),
        world_size=world_size,
        local_rank=_integer(environment, local_rank) if local_rank in environment else 0,
        local_world_size=local_world_size,
        address=_address(environment, name, on_one_host=local_world_size >= world_size),
        port=_port(environment),
    )


def _integer(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise InputError(f"environment variable {name}={environment[name]!r} is not a whole number") from None


def _port(environment: Mapping[str, str]) -> int:
    """MASTER_PORT, or one that all ranks of a job derive from its id, below the range of outgoing connections."""
    if "MASTER_PORT" in environment:
        return _integer(environment, "MASTER_PORT")
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "PMIX_NAMESPACE"):
        digits = "".join(filter(str.isdigit, environment.get(name, "")))
        if digits:
            return 20_000 + int(digits[-9:]) % 12_000
    return 29_500


def _address(environment: Mapping[str, str], launcher: str, *, on_one_host: bool) -> str:
    if "MASTER_ADDR" in environment:
        return environment["MASTER_ADDR"]
    if on_one_host:
        return "127.0.0.1"
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if nodes:
        return first_node(nodes)
    raise InputError(
        f"{launcher} started ranks on several hosts, but MASTER_ADDR is not set: export MASTER_ADDR=<host of rank 0> "
        "(Open MPI: mpirun -x MASTER_ADDR ...; Hydra: mpirun -genv MASTER_ADDR ...)"
    )


def first_node(nodes: str) -> str:
    """First host of a Slurm node list: `gpu[003-010,020]` is gpu003, `a1,b2` is a1."""
    head, bracket, rest = nodes.partition("[")
    if not bracket or "," in head:
        return head.split(",")[0]
    inside, _, tail = rest.partition("]")
    first = inside.split(",")[0].split("-")[0]
    return head + first + tail.split(",")[0]


def export(place: Place, environment: MutableMapping[str, str] = os.environ) -> None:
    """Write a place into the environment in torch's spelling."""
    environment.update(
        RANK=str(place.rank),
        WORLD_SIZE=str(place.world_size),
        LOCAL_RANK=str(place.local_rank),
        LOCAL_WORLD_SIZE=str(place.local_world_size),
        MASTER_ADDR=place.address,
    )
    if place.port is not None:
        environment["MASTER_PORT"] = str(place.port)


def free_port() -> int:
    """A TCP port on this host that nothing listens on."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_processes(command: Sequence[str], *, processes: int, grace_seconds: float = GRACE_SECONDS) -> int:
    """Run `processes` copies of a command as the ranks of one job on this machine; returns the job's exit code.

    SIGINT and SIGTERM go to every rank once, which then saves and ends. The first rank that fails decides the exit
    code; the others get SIGTERM, and SIGKILL `grace_seconds` later. If this process is killed, Linux ends the ranks.
    """
    place = {"address": "127.0.0.1", "port": free_port(), "world_size": processes, "local_world_size": processes}
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    ranks = []
    for rank in range(processes):
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        export(Place(launcher="torchrun", rank=rank, local_rank=rank, **place), environment)
        ranks.append(subprocess.Popen(command, env=environment, preexec_fn=_die_with_parent))
    with _signals_passed_on(ranks):
        return _supervise(ranks, grace_seconds=grace_seconds)


def _die_with_parent() -> None:
    """Between fork and exec in a rank: its own session (a terminal's Ctrl-C reaches only us), ended when we end."""
    os.setsid()
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


class _signals_passed_on:  # noqa: N801 (used as a with statement, like its neighbours in contextlib)
    """While active, SIGINT and SIGTERM are forwarded to the ranks instead of ending this process."""

    def __init__(self, ranks: list[subprocess.Popen[bytes]]) -> None:
        self._ranks = ranks
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._forward)

    def _forward(self, number: int, frame: object) -> None:
        _signal_all(self._ranks, number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]


def _supervise(ranks: list[subprocess.Popen[bytes]], *, grace_seconds: float) -> int:
    failed: int | None = None
    deadline = float("inf")
    while None in (codes := [rank.poll() for rank in ranks]):
        if failed is None and (failed := _first_failed(codes)) is not None:
            deadline = time.monotonic() + grace_seconds
            _signal_all(ranks, signal.SIGTERM)
        if time.monotonic() > deadline:
            _signal_all(ranks, signal.SIGKILL)
        time.sleep(0.05)
    if failed is None:
        failed = _first_failed(codes)
    return 0 if failed is None else _explain(failed, ranks[failed].returncode, world_size=len(ranks))


def _first_failed(codes: list[int | None]) -> int | None:
    """The rank to blame: one that a signal ended, before those that then failed because it was gone."""
    failed = [rank for rank, code in enumerate(codes) if code]
    return min(failed, key=lambda rank: (codes[rank] or 0) > 0, default=None)


def _signal_all(ranks: list[subprocess.Popen[bytes]], number: int) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(number)


def _explain(rank: int, code: int, *, world_size: int) -> int:
    """Exit code of the job: a rank's own code, 1 for a death by signal (which the rank could not report itself)."""
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    print(f"megaphi: rank {rank} of {world_size} was killed by {name}{hint}; the job has been ended", file=sys.stderr)
    return 1
