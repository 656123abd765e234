"""The meeting of a job's ranks in its key-value store, before any collective, in which ranks that differ would hang.

Every process posts its rank, host, GPU and facts (configuration, code, versions) under the next free number. Rank 0
reads the posts as they come, until all ranks of its world are there or one of them differs, and posts the verdict. So
it notices another world size, two processes with one rank or one GPU, and missing ranks, and all end together within
seconds.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megaphi.errors import InputError, ReportedElsewhere
from megaphi.log import logger
from megaphi.parallel.rendezvous.differences import Facts, differences, named
from megaphi.parallel.rendezvous.signed_store import SECRET, SignedStore

STRAGGLERS_SECONDS = 5.0
"""Seconds that rank 0 still reads posts once it knows of a difference, to name all ranks that differ."""
FAREWELL_SECONDS = 30.0
"""Seconds that rank 0, which holds the store, stays so that the others can read the verdict that ends the job."""
SAY_EVERY_SECONDS = 15.0
POSTING_SECONDS = 2.0
"""Seconds that rank 0, when all ranks are there, waits for the post of a process that has only counted itself."""
MOST_STRANGERS = 1_000
"""Processes that may come to the meeting beyond the ranks of the job."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A process at the meeting."""

    rank: int
    facts: Facts
    host: str = field(default_factory=socket.gethostname)
    kernel: str = field(default_factory=lambda: BOOT_ID.read_text().strip() if BOOT_ID.exists() else "")
    """It distinguishes hosts that share a name."""
    pid: int = field(default_factory=os.getpid)
    address: str = ""
    """Address of the interface by which it reaches rank 0."""
    gpu: str = ""
    """UUID of the GPU that it will use; empty if there is none or it is not known yet."""
    problem: str = ""
    """Reason why it cannot take part: bad input that perhaps only this process has met."""

    def is_beside(self, other: Arrival) -> bool:
        """Return whether both are on one host."""
        return (self.host, self.kernel) == (other.host, other.kernel)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Verdict:
    """Rank 0's verdict."""

    problem: str | None
    present: dict[int, Arrival]


def meet(store: SignedStore, me: Arrival, *, world_size: int, patience_seconds: float) -> dict[int, Arrival]:
    """Wait for all ranks and compare them; returns them by rank. One rank per host reports why a job ends.

    Raises:
        InputError: the ranks differ, or some did not arrive within `patience_seconds`; on all ranks.
    """
    store.set(f"arrival/{store.add('arrivals', 1)}", json.dumps(asdict(me)))
    if me.rank == 0:
        store.set("welcome", "")
        verdict = _Host(store, me, world_size=world_size).verdict(patience_seconds)
        plain = {"problem": verdict.problem, "present": [asdict(one) for one in verdict.present.values()]}
        store.set("verdict", json.dumps(plain))
    else:
        verdict = _read_verdict(store, me, patience_seconds=patience_seconds)
    mine = verdict.present.get(me.rank)
    if verdict.problem is None and (mine is None or (mine.host, mine.pid) != (me.host, me.pid)):
        raise InputError(
            f"the job of rank 0 already has all its {len(verdict.present)} ranks: {_who(me)} is one too many"
        )
    if verdict.problem is None:
        return verdict.present
    if me.rank == 0:
        _wait_for_readers(store, store.add("arrivals", 0) - 1)  # absent ranks do not read
    else:
        store.add("read", 1)
    is_spoken_for = any(one.rank < me.rank and one.is_beside(me) for one in verdict.present.values())
    raise ReportedElsewhere(verdict.problem) if is_spoken_for else InputError(verdict.problem)


class _Host:
    """Rank 0's side of the meeting: it collects the others and decides."""

    def __init__(self, store: SignedStore, me: Arrival, *, world_size: int) -> None:
        self._store, self._me, self._world_size = store, me, world_size
        self._present: dict[int, Arrival] = {}
        self._strays: list[str] = []
        self._seen = self._unsigned = 0
        self._awaited: set[int] = set()

    def verdict(self, patience_seconds: float) -> _Verdict:
        began = said = time.monotonic()
        ends = began + patience_seconds
        pause = 0.005
        while (len(self._present) < self._world_size or self._awaited) and time.monotonic() < ends:
            if self._let_in() and self._differ():
                ends = min(ends, time.monotonic() + STRAGGLERS_SECONDS)
            if len(self._present) == self._world_size:
                ends = min(ends, time.monotonic() + POSTING_SECONDS)
            if time.monotonic() - said > SAY_EVERY_SECONDS:
                said = time.monotonic()
                self._store.set("missing", self._missing())
                logger.warning("%s: %.0f s of %.0f", self._missing(), said - began, patience_seconds)
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        return _Verdict(problem=self._problem(patience_seconds), present=self._present)

    def _let_in(self) -> bool:
        """Read new posts; True if there were any."""
        arrivals = self._new_arrivals()
        for one in arrivals:
            if one.rank >= self._world_size:
                self._strays.append(f"  {_who(one)} is not of a world of {self._world_size}")
            elif one.rank in self._present:
                self._strays.append(f"  {_who(one)} and {_who(self._present[one.rank])} are both rank {one.rank}")
            if one.rank not in self._present:
                self._present[one.rank] = one
        return bool(arrivals)

    def _new_arrivals(self) -> list[Arrival]:
        """Posts that were not read before. A number whose post is not there yet is asked for again."""
        count = self._store.add("arrivals", 0)
        if count - self._seen > MOST_STRANGERS + self._world_size:
            raise InputError(
                f"{count:,} processes say that they come to this job of {self._world_size} ranks: strangers write to "
                "its store. Choose a MASTER_PORT that only its hosts reach"
            )
        self._awaited |= set(range(self._seen + 1, count + 1))
        self._seen = max(self._seen, count)
        arrivals = []
        for number in sorted(self._awaited):
            if not self._store.check([f"arrival/{number}"]):
                continue
            self._awaited.discard(number)
            text = self._store.get(f"arrival/{number}")
            self._unsigned += text is None
            arrivals += [] if text is None else [Arrival(**json.loads(text))]
        return arrivals

    def _differ(self) -> bool:
        is_declined = any(one.problem for one in self._present.values())
        return bool(self._strays or is_declined or self._differences() or self._shared_gpus())

    def _differences(self) -> str | None:
        facts = {rank: one.facts for rank, one in self._present.items()}
        return differences({0: self._me.facts, **facts}, self._hosts())

    def _shared_gpus(self) -> str | None:
        """Ranks that share a GPU: NCCL fails or hangs, or they silently take turns."""
        takers: dict[tuple[str, str], list[int]] = {}
        for rank, one in sorted(self._present.items()):
            if one.gpu:
                takers.setdefault((one.kernel, one.gpu), []).append(rank)
        lines = [f"  GPU {gpu}: {named(ranks, self._hosts())}" for (_, gpu), ranks in takers.items() if len(ranks) > 1]
        if not lines:
            return None
        return "\n".join(
            [
                "ranks of this job have the same GPU:",
                *lines,
                "Give each rank one of its own: start at most as many ranks on a host as it has GPUs, and let the "
                "launcher number them (LOCAL_RANK) or show each rank another one in CUDA_VISIBLE_DEVICES",
            ]
        )

    def _hosts(self) -> dict[int, str]:
        return {rank: one.host for rank, one in self._present.items()}

    def _missing(self) -> str:
        missing = [rank for rank in range(self._world_size) if rank not in self._present]
        if not missing:
            return f"rank 0 waits for {len(self._awaited)} processes that have counted themselves and said nothing"
        here = named(sorted(self._present), self._hosts())
        strangers = f"; {self._unsigned} came without this job's secret ({SECRET})" if self._unsigned else ""
        return f"rank 0 waits for {named(missing, {})} of {self._world_size} (here: {here}{strangers})"

    def _declined(self) -> str | None:
        """Reasons of the ranks that cannot take part, each once."""
        reasons: dict[str, list[int]] = {}
        for rank, one in sorted(self._present.items()):
            if one.problem:
                reasons.setdefault(one.problem, []).append(rank)
        if list(map(len, reasons.values())) == [self._world_size]:
            return next(iter(reasons))
        return "\n".join(f"{reason} (on {named(ranks, self._hosts())})" for reason, ranks in reasons.items()) or None

    def _problem(self, patience_seconds: float) -> str | None:
        if declined := self._declined():
            return declined
        found = [*self._strays, *filter(None, [self._differences()])]
        if found:
            found.insert(0, "the ranks of this job differ:")
            found.append("Start all of them with the same command, source files, packages and environment")
        if shared := self._shared_gpus():
            found.append(shared)
        if found:
            return "\n".join(found)
        if len(self._present) < self._world_size:
            return (
                f"{self._missing()} and gives up after {patience_seconds:.0f} s: were they started, and with this "
                "MASTER_ADDR and MASTER_PORT?"
            )
        return None


def _who(one: Arrival) -> str:
    return f"rank {one.rank} (process {one.pid} on {one.host})"


def _read_verdict(store: SignedStore, me: Arrival, *, patience_seconds: float) -> _Verdict:
    said = time.monotonic()
    ends, pause = said + patience_seconds + FAREWELL_SECONDS, 0.005
    try:
        while (verdict := _signed(store, "verdict")) is None:
            if time.monotonic() > ends:
                raise InputError(f"{_who(me)} reached the job's store, but rank 0 did not come to it")
            if store.check(["welcome"]) and _signed(store, "welcome") is None:
                raise InputError(
                    f"{_who(me)} does not have the secret of rank 0: give all ranks of the job the same {SECRET}"
                )
            if time.monotonic() - said > SAY_EVERY_SECONDS:
                said = time.monotonic()
                logger.warning("%s waits: %s", _who(me), _signed(store, "missing") or "rank 0 is not here yet")
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        plain: Mapping[str, Any] = json.loads(verdict)
    except InputError:
        raise
    except RuntimeError:
        raise InputError(f"{_who(me)}: rank 0 ended before all ranks had come; its own message says why") from None
    present = [Arrival(**one) for one in plain["present"]]
    return _Verdict(problem=plain["problem"], present={one.rank: one for one in present})


def _signed(store: SignedStore, key: str) -> str | None:
    """The text of a key once a rank of this job has written it."""
    return store.get(key) if store.check([key]) else None


def _wait_for_readers(store: SignedStore, readers: int) -> None:
    ends = time.monotonic() + FAREWELL_SECONDS
    while store.add("read", 0) < readers and time.monotonic() < ends:
        time.sleep(0.05)
