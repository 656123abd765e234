"""The launcher of a job's ranks on this machine: N copies of a command, with signals forwarded.

When one of them dies the launcher ends the others, so that a dead rank never leaves a hang. Standard library only: the
parent process imports neither torch nor Megatron.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from megaphi.errors import RunFailed
from megaphi.parallel.devices import check_processes
from megaphi.parallel.rendezvous.place import Place, export, without_launchers
from megaphi.parallel.rendezvous.signed_store import SECRET

GRACE_SECONDS = 20.0
"""Seconds that the other ranks have to end once one has failed, before they are killed."""
LOST_RANK_CODE = 75
"""Exit code (sysexits' EX_TEMPFAIL) of a job that has lost a rank or stood still: started again, it continues."""
LOWEST_PORT = 10_000
"""Ports below are for well-known services."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""Signals by which users, launchers, queues and closed terminals ask a run to save and end."""


def free_port() -> int:
    """A TCP port of this host that is not in use.

    The job's store listens there only seconds later. Meanwhile the system may give any port of its ephemeral range to
    an outgoing connection, so the port is drawn from below that range.
    """
    draw = random.SystemRandom()  # a seeded generator would draw the same port in two jobs
    ephemeral = first_ephemeral_port()
    highest = ephemeral if ephemeral > LOWEST_PORT + 1_000 else 65_536  # some hosts leave no room below
    for _ in range(1_000):
        port = draw.randrange(LOWEST_PORT, highest)
        with closing(socket.socket()) as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise RunFailed(f"no free port on this host: tried 1,000 from {LOWEST_PORT} to {highest - 1}")


def first_ephemeral_port() -> int:
    """The first port for outgoing connections: Linux reports it, other systems begin at 49152 (RFC 6335)."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 49_152


OnKilled = Callable[[int, str], object]


class JobEnd(NamedTuple):
    """The end of a job."""

    code: int
    """Its exit code."""
    was_asked: bool
    """True if a signal had asked it to stop."""


def start_processes(command: Sequence[str], *, processes: int, grace_seconds: float = GRACE_SECONDS) -> int:
    """`run_job` for a job that is started once; returns its exit code."""
    return run_job(command, processes=processes, grace_seconds=grace_seconds).code


def run_job(
    command: Sequence[str],
    *,
    processes: int,
    grace_seconds: float = GRACE_SECONDS,
    variables: Mapping[str, str] = MappingProxyType({}),
    on_killed: OnKilled = lambda rank, text: None,
) -> JobEnd:
    """Run `processes` copies of a command as the ranks of one job on this machine.

    STOP_SIGNALS are forwarded once to every rank, which then saves and ends. The first rank that fails decides the exit
    code; the others get SIGTERM, and SIGKILL `grace_seconds` later. If this process is killed, Linux ends the ranks.

    Args:
        variables: for the environment of the ranks.
        on_killed: called at once when a signal has ended the first rank that is lost, with its number and a sentence.

    Raises:
        InputError: there are GPUs here, but fewer than `processes`.
    """
    check_processes(processes)
    secret = secrets.token_hex(16)
    place = {"address": "127.0.0.1", "port": free_port(), "world_size": processes, "local_world_size": processes}
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    ranks: list[subprocess.Popen[bytes]] = []
    with _signals_passed_on(ranks) as signals:
        for rank in range(processes):
            environment = {**without_launchers(os.environ), **variables, "OMP_NUM_THREADS": threads, SECRET: secret}
            export(Place(launcher="megaphi", rank=rank, local_rank=rank, **place), environment)
            ranks.append(subprocess.Popen(command, env=environment, preexec_fn=_die_with_parent))
        code = _supervise(ranks, grace_seconds=grace_seconds, on_killed=on_killed)
    return JobEnd(code, signals.came)


def _die_with_parent() -> None:
    """Run in a rank between fork and exec: a session of its own (Ctrl-C reaches only us) that ends when we end."""
    os.setsid()
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


class _signals_passed_on:  # noqa: N801 (used as a with statement, like its neighbours in contextlib)
    """While active, the signals that ask for a stop are forwarded to the ranks instead of ending this process."""

    def __init__(self, ranks: list[subprocess.Popen[bytes]]) -> None:
        self._ranks = ranks
        self._before: dict[int, object] = {}
        self.came = False

    def __enter__(self) -> _signals_passed_on:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGINT:  # nohup ignores SIGHUP
                self._before[number] = signal.signal(number, self._forward)
        return self

    def _forward(self, number: int, frame: object) -> None:
        self.came = True
        _signal_all(self._ranks, number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]


def _supervise(ranks: list[subprocess.Popen[bytes]], *, grace_seconds: float, on_killed: OnKilled) -> int:
    failed: int | None = None
    deadline = float("inf")
    while None in (codes := [rank.poll() for rank in ranks]):
        if failed is None and (failed := _first_failed(codes)) is not None:
            if (codes[failed] or 0) < 0:
                on_killed(failed, _death(failed, codes[failed] or 0, world_size=len(ranks)))
            deadline = time.monotonic() + grace_seconds
            _signal_all(ranks, signal.SIGTERM)
            _signal_all(ranks, signal.SIGCONT)  # a stopped rank would wait for its SIGKILL
        if time.monotonic() > deadline:
            _signal_all(ranks, signal.SIGKILL)
        time.sleep(0.05)
    if failed is None:
        failed = _first_failed(codes)
    return 0 if failed is None else _explain(failed, ranks[failed].returncode, world_size=len(ranks))


def _first_failed(codes: list[int | None]) -> int | None:
    """The rank that failed first: one that a signal ended, rather than those that failed because it was gone."""
    failed = [rank for rank, code in enumerate(codes) if code]
    return min(failed, key=lambda rank: (codes[rank] or 0) > 0, default=None)


def _signal_all(ranks: list[subprocess.Popen[bytes]], number: int) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(number)


def _explain(rank: int, code: int, *, world_size: int) -> int:
    """Exit code of the job: the rank's own, or LOST_RANK_CODE if a signal killed it, which it could not report."""
    if code >= 0:
        return code
    print(f"megaphi: {_death(rank, code, world_size=world_size)}; the job has been ended", file=sys.stderr)
    return LOST_RANK_CODE


def _death(rank: int, code: int, *, world_size: int) -> str:
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"rank {rank} of {world_size} was killed by {signal.Signals(-code).name}{hint}"
