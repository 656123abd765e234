"""The heartbeat of a job: every rank reports that it is alive and where it is; whoever is lost is named by the others.

A thread of each rank writes its beat (beats.py) under a key of the job's store, over a separate connection. Rank 0
reads all beats and posts a verdict; the others read the verdict and rank 0's beat. A second thread checks that the
store answers at all, because a request to a stopped or unreachable host never returns. Neither needs the main thread,
which may hang in a collective for ever. From the same beats rank 0 notices a job that stands still though all ranks are
alive (standstill.py), and slow ranks (stragglers.py). Before a rank ends it writes down its stacks and its collectives.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, Literal, Protocol

from megaphi import log
from megaphi.log import logger
from megaphi.parallel.launcher import LOST_RANK_CODE
from megaphi.parallel.liveness.beats import FIRST, Beat, Person, Roll, whereabouts
from megaphi.parallel.liveness.flight_recorder import collectives_started, write_dump
from megaphi.parallel.liveness.patience import Patience
from megaphi.parallel.liveness.standing import Standing
from megaphi.parallel.liveness.standstill import Pace, describe, laggards
from megaphi.parallel.liveness.stragglers import StragglerWatch
from megaphi.parallel.rendezvous.signed_store import SignedStore

INTERVAL_SECONDS = 2.0
HURRIED_BEATS = 4
"""Beats that a rank may miss once another has lost contact, or after its store has closed the connection."""
LINGER_SECONDS = 5.0
"""Seconds that rank 0, which often holds the store, stays so that the others can read its last verdict or leave."""
EVIDENCE_SECONDS = 4.0
"""Seconds in which a rank that ends says why and writes down its stacks: a blocked disk must not keep it."""


Listener = Callable[[Literal["lost_rank", "straggler"], int, str, Mapping[str, Any]], object]
"""Takes (kind, step, sentence, facts) of an event."""


class Doing(Protocol):
    """The interface of `Activity` for the heartbeat."""

    step: int
    phase: str
    phases: int

    def usual_work(self) -> Mapping[str, float]:
        """Median seconds of this rank's own work in a step, by phase."""
        ...


class Heartbeat:
    """The heartbeat of one rank: two threads, from `start` to `stop`.

    Args:
        store: a client of the job's store that nothing else uses.
        people: host and process of each rank.
        peers: a number for each rank, the same for those that have the same work.
    """

    def __init__(
        self,
        store: SignedStore,
        *,
        rank: int,
        people: Sequence[Person],
        doing: Doing,
        patience: Patience,
        peers: Sequence[int] = (),
    ) -> None:
        self._store, self._rank, self._people, self._doing = store, rank, people, doing
        self._timeout = patience.heartbeat_seconds
        self._interval = min(INTERVAL_SECONDS, self._timeout / 10)
        self.folder: Path | None = None
        """Folder for dumps of the flight recorder, once the run's is known."""
        self.listener: Listener | None = None
        self._state, self._number = "here", 0
        self._seen = range(len(people)) if rank == 0 else range(1)
        now = time.monotonic()
        self._roll = Roll(len(self._seen), interval_seconds=self._interval, now=now)
        self._heard = dict.fromkeys(range(len(people)), FIRST)
        self._standing = Standing()
        self._pace = Pace(standstill_seconds=patience.standstill_seconds, long_seconds=patience.collective_seconds)
        self._stragglers = StragglerWatch(peers or [0] * len(people))
        self._asks = self._answered_asks = 0
        self._answers = 0
        self._broken = False
        self._has_named = False
        self._stopping, self._hurry, self._wake, self._ending = Event(), Event(), Event(), Lock()
        self._threads = [
            Thread(target=self._beat, name="heartbeat", daemon=True),
            Thread(target=self._watch, name="heartbeat's watch", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Leave the job after its end; rank 0 waits a little for the others to leave."""
        self._stopping.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(self._interval)
        if self._threads[0].is_alive() or self._broken:
            return  # the store is gone, and nobody is left to tell
        try:
            self._state = "left"
            self._say_beat()
            deadline = time.monotonic() + LINGER_SECONDS
            while self._rank == 0 and time.monotonic() < deadline:
                if all(beat.state != "here" for beat in self._read(range(1, len(self._people)))):
                    break
                time.sleep(0.02)
        except RuntimeError:
            logger.debug("the store closed before this rank had left", exc_info=True)

    def fail(self, problem: str) -> None:
        """Report to the others that this rank ends with an error of its own."""
        self._tell(f"failed: {problem[:200]}")
        told = self._number + 1  # the beat that is being written may still be of the state before
        deadline = time.monotonic() + LINGER_SECONDS
        while self._number <= told and not self._broken and time.monotonic() < deadline:
            time.sleep(0.02)

    def explain(self, message: str, *, problem: str) -> None:
        """Report failed communication and wait for the verdict, which ends this process; return if none comes in time.

        If a launcher ends the job meanwhile, it knows more than we do, and `message` is all that is reported. Outside
        the main thread the process's own handling of the launcher's signal is left as it is.
        """
        self._tell(f"cut off: {problem[:200]}")

        def give_up(number: int, frame: object) -> None:
            with self._ending:
                event = (lambda: self._tell_listener("lost_rank", message, [], ended=True)) if self._rank == 0 else None
                self._write_evidence(f"megaphi: {message}", event)
                os._exit(LOST_RANK_CODE)

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, give_up)
        time.sleep(self._timeout)

    def _tell(self, state: str) -> None:
        """Write a beat at once, and read the others' more often from now on."""
        self._state = state
        self._hurry.set()
        self._wake.set()

    def _beat(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(self._interval)
            if self._hurry.is_set():
                self._stopping.wait(min(0.5, self._interval))
            try:
                self._say_beat()
                self._look()
            except RuntimeError as error:
                logger.debug("heartbeat: the store is gone: %s", error)
                self._broken = True
                return
            self._answers += 1

    def _say_beat(self) -> None:
        self._number += 1
        doing, collectives = self._doing, collectives_started()
        position = (doing.step, doing.phases, doing.phase, collectives)
        beat = Beat(
            number=self._number,
            step=doing.step,
            phase=doing.phase,
            state=self._state,
            collectives=collectives,
            work=doing.usual_work(),
            whereabouts=self._standing.noted(position, patience_seconds=3 * self._interval),
            phases=doing.phases,
            asks=self._asks,
        )
        self._store.set(f"beat/{self._rank}", json.dumps(beat))

    def _read(self, ranks: Sequence[int]) -> list[Beat]:
        """The last beat of each of these ranks; what somebody else wrote in its place does not count."""
        texts = self._store.multi_get([f"beat/{rank}" for rank in ranks])
        self._heard |= {rank: Beat(*json.loads(text)) for rank, text in zip(ranks, texts, strict=True) if text}
        return [self._heard[rank] for rank in ranks]

    def _look(self) -> None:
        if self._stopping.is_set():
            return
        if (told := self._told_verdict()) is not None:
            verdict = json.loads(told)
            accused = self._rank in verdict["ranks"]
            self._end("the others considered this rank lost and have ended: " * accused + verdict["text"], lost=[])
        self._roll.note(self._read(self._seen), now=time.monotonic())
        if any(beat.state not in ("here", "left") for beat in self._roll.beats):
            self._hurry.set()
            self._wake.set()
        if self._roll.beats[0].asks != self._answered_asks:
            self._answered_asks = self._roll.beats[0].asks
            self._keep(_write_stacks)
        verdict = self._judge()
        if verdict is not None:
            ranks, text = verdict
            if self._rank == 0:
                self._store.set("heartbeat/verdict", json.dumps({"ranks": ranks, "text": text}))
            self._end(text, lost=ranks)
        if self._rank == 0:
            self._name_stragglers()

    def _told_verdict(self) -> str | None:
        """Rank 0's verdict, once there is one."""
        is_there = self._rank != 0 and self._store.check(["heartbeat/verdict"])
        return self._store.get("heartbeat/verdict") if is_there else None

    def _judge(self) -> tuple[list[int], str] | None:
        """(lost ranks, message) if the job must end, or None."""
        roll, states = self._roll, [beat.state for beat in self._roll.beats]
        failed = [rank for rank, state in enumerate(states) if state.startswith("failed")]
        if failed and failed != [self._rank]:
            others = [rank for rank in failed if rank != self._rank]
            return others, f"{whereabouts(others, self._people, roll.beats)}: it {states[others[0]]}"
        cut_off = [beat for beat in roll.beats if beat.is_cut_off]
        is_hurried = cut_off or self._state.startswith("cut off")
        patience = min(self._timeout, HURRIED_BEATS * self._interval) if is_hurried else self._timeout
        silent = roll.silent(longer_than=patience)
        if silent:
            seconds = max(roll.silent_seconds[rank] for rank in silent)
            return silent, f"not heard for {seconds:.0f} s: {whereabouts(silent, self._people, roll.beats)}"
        if cut_off and self._rank == 0 and roll.cut_off_seconds > 2 * patience:
            everybody = range(len(states))
            where = whereabouts(everybody, self._people, roll.beats)
            return [], f"communication failed ({cut_off[0].state}), but all are heard: {where}"
        return self._judge_standstill() if self._rank == 0 and not is_hurried else None

    def _judge_standstill(self) -> tuple[list[int], str] | None:
        """Name the rank that hangs while all are alive; (its number, message) once the job must end for it."""
        beats, seconds = self._roll.beats, self._roll.standing_seconds
        if any(beat.state != "here" for beat in beats):
            return None
        self._pace.note(beats, standing_seconds=seconds)
        if seconds < self._pace.naming_seconds():
            self._has_named = False
            return None
        ranks = laggards(beats)
        text = f"no rank has moved for {seconds:.0f} s: {describe(ranks, self._people, beats)}"
        if seconds >= self._pace.ending_seconds():
            return ranks, text
        if not self._has_named:
            self._has_named, self._asks = True, self._asks + 1
            ends = self._pace.ending_seconds()
            limit = "no job ends for that" if ends == float("inf") else f"the job ends if that lasts for {ends:.0f} s"
            text = f"{text}. Stacks of all ranks are in logs/; {limit}"
            logger.warning("%s", text)
            self._tell_listener("lost_rank", text, ranks, ended=False)
        return None

    def _name_stragglers(self) -> None:
        beats = self._roll.beats
        for slow in self._stragglers.note([beat.step for beat in beats], [beat.work for beat in beats]):
            text = f"rank {slow.rank} on {self._people[slow.rank].host} is slow: {slow}"
            logger.warning("%s", text)
            facts = {"ratio": slow.seconds / slow.usual_seconds, "phase": slow.phase, "lost_seconds": slow.lost_seconds}
            self._tell_listener("straggler", text, [slow.rank], **facts)

    def _tell_listener(
        self, kind: Literal["lost_rank", "straggler"], text: str, ranks: Sequence[int], **facts: Any
    ) -> None:
        if self.listener is not None:
            hosts = sorted({self._people[rank].host for rank in ranks})
            self.listener(kind, self._doing.step, text, {"ranks": list(ranks), "hosts": hosts, **facts})

    def _watch(self) -> None:
        """End this rank if the store has not answered for too long, counting only time in which this process ran."""
        answers, silent, at = self._answers, 0.0, time.monotonic()
        while not self._stopping.wait(self._interval / 2):
            now = time.monotonic()
            silent, at = silent + min(now - at, self._interval), now
            if self._broken and self._roll.beats[0].state == "left":
                return  # the job is over, and this rank the last to leave
            if self._answers != answers:
                answers, silent = self._answers, 0.0
            hurried = self._broken or self._state.startswith("cut off")
            if silent > (min(self._timeout, HURRIED_BEATS * self._interval) if hurried else self._timeout):
                self._end(self._about_the_store(silent), lost=[0])

    def _about_the_store(self, silent: float) -> str:
        what = (
            "its store has closed the connection" if self._broken else f"its store does not answer for {silent:.0f} s"
        )
        return (
            f"rank 0 is lost ({what}: stopped, killed, or the link to it is down): "
            f"{whereabouts([0], self._people, self._roll.beats)}"
        )

    def _end(self, text: str, *, lost: Sequence[int]) -> None:
        """Say why, write down stacks and collectives, and end the process, whatever it is doing."""
        with self._ending:
            here = f"rank {self._rank} on {self._people[self._rank].host} ends in step {self._doing.step}, "
            message = f"megaphi: {here}{self._doing.phase}: {text}"
            reports = self._rank == 0 or (self._rank == 1 and 0 in lost)  # rank 0 may be what was lost
            event = (lambda: self._tell_listener("lost_rank", text, lost, ended=True)) if reports else None
            self._keep(lambda: self._write_evidence(message, event))
            if self._rank == 0:
                time.sleep(min(LINGER_SECONDS, 2.5 * self._interval))
            os._exit(1 if self._state.startswith("failed") else LOST_RANK_CODE)

    def _keep(self, write: Callable[[], object]) -> None:
        """Call a function that writes, in a thread that need not return."""
        speaker = Thread(target=write, daemon=True)
        speaker.start()
        speaker.join(EVIDENCE_SECONDS)

    def _write_evidence(self, message: str, event: Callable[[], object] | None = None) -> None:
        _write_line(message)
        if event is not None:
            event()
        _write_stacks()
        if self.folder is not None:
            write_dump(self.folder, rank=self._rank)


def _write_line(message: str) -> None:
    line = f"{message}\n".encode(errors="backslashreplace")
    os.write(log.terminal(), line)
    if log.rank_log is not None:
        os.write(log.rank_log, line)


def _write_stacks() -> None:
    if log.rank_log is not None:
        faulthandler.dump_traceback(log.rank_log, all_threads=True)
    sys.stdout.flush()
