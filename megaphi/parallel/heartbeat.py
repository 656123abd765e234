"""The heartbeat of a job: every rank reports that it is alive; if one falls silent, the others name it and end.

A thread of each rank writes its beat (a number, step, phase) under a key of the job's store, over a separate
connection. Rank 0 reads all beats and posts a verdict; the others read the verdict and rank 0's beat. A second thread
checks that the store answers at all, because a request to a stopped or unreachable host never returns. Neither needs
the main thread, which may hang in a collective for ever. Silence is measured in time during which the watcher itself
was running: when a whole job is frozen (a suspended laptop, a paused container), no rank counts as silent.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Annotated, NamedTuple, Protocol

from megaphi import log
from megaphi.config import Range
from megaphi.log import logger
from megaphi.parallel.rendezvous.differences import named
from megaphi.parallel.rendezvous.signed_store import SignedStore

INTERVAL_SECONDS = 2.0
HURRIED_BEATS = 4
"""Beats that a rank may miss once another has lost contact, or after its store has closed the connection."""
STANDSTILL_SECONDS = 120.0
"""Seconds without a new phase on any rank after which rank 0 reports every rank's step and phase, and again at twice
that.
"""
EXIT_CODE = 1
LINGER_SECONDS = 5.0
"""Seconds that rank 0, which often holds the store, stays so that the others can read its last verdict or leave."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """Time that ranks wait for each other (config section `patience`)."""

    start_seconds: Annotated[float, Range(above=0, maximum=86_400)] = 600.0
    """Time for all ranks of the job to arrive; the missing ones are named every 15 s."""
    heartbeat_seconds: Annotated[float, Range(minimum=0, maximum=3_600)] = 40.0
    """Longest silence of a rank before it is named and the others end; 0: no limit (for debuggers)."""
    collective_seconds: Annotated[float, Range(above=0, maximum=86_400)] = 600.0
    """Time for one communication between ranks, which may wait for the slowest rank's compute or data."""


class Person(NamedTuple):
    """Host and process of a rank."""

    host: str
    pid: int


class Beat(NamedTuple):
    """A rank's report about itself."""

    number: int
    """Number of this beat among its rank's."""
    step: int
    phase: str
    state: str
    """`here`, `left` (done), `cut off: ` with its communication error, or `failed: ` with its error."""

    @property
    def is_cut_off(self) -> bool:
        return self.state.startswith("cut off")


FIRST_BEAT = json.dumps(Beat(number=0, step=0, phase="start", state="here"))


class Doing(Protocol):
    """The interface of `Activity` for the heartbeat."""

    step: int
    phase: str


class Roll:
    """Silence of each rank in seconds, updated by `note` whenever the beats are read."""

    def __init__(self, ranks: int, *, interval_seconds: float, now: float) -> None:
        self.beats = [Beat(*json.loads(FIRST_BEAT))] * ranks
        self.silent_seconds = [0.0] * ranks
        self.standing_seconds = 0.0
        """Seconds since any rank was last seen to enter a phase."""
        self.cut_off_seconds = 0.0
        """Seconds since a rank first reported that its communication has failed."""
        self._longest_tick, self._at = 3 * interval_seconds, now

    def note(self, beats: Sequence[Beat], *, now: float) -> None:
        """Note new beats. The time since the last call is capped, in case this process was frozen meanwhile."""
        passed, self._at = min(now - self._at, self._longest_tick), now
        self.standing_seconds += passed
        self.cut_off_seconds += passed if any(beat.is_cut_off for beat in self.beats) else 0.0
        for rank, (before, beat) in enumerate(zip(self.beats, beats, strict=True)):
            is_silent = beat.number == before.number and beat.state != "left"
            self.silent_seconds[rank] = self.silent_seconds[rank] + passed if is_silent else 0.0
            if (beat.step, beat.phase) != (before.step, before.phase):
                self.standing_seconds = 0.0
        self.beats = list(beats)

    def silent(self, *, longer_than: float) -> list[int]:
        return [rank for rank, seconds in enumerate(self.silent_seconds) if seconds > longer_than]


def whereabouts(ranks: Sequence[int], people: Sequence[Person], beats: Sequence[Beat]) -> str:
    """Describe the ranks and where they were last heard; ranks of one host, step and phase share a line."""
    groups: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for rank in ranks:
        groups[people[rank].host, beats[rank].step, beats[rank].phase].append(rank)
    return "; ".join(
        f"{named(group, {})} on {host}{f' (process {people[group[0]].pid})' * (len(group) == 1)}, "
        f"last heard in step {step}, {phase}"
        for (host, step, phase), group in groups.items()
    )


class Heartbeat:
    """The heartbeat of one rank: two threads, from `start` to `stop`.

    Args:
        store: a client of the job's store that nothing else uses.
        people: host and process of each rank.
    """

    def __init__(
        self, store: SignedStore, *, rank: int, people: Sequence[Person], doing: Doing, timeout_seconds: float
    ) -> None:
        self._store, self._rank, self._people, self._doing = store, rank, people, doing
        self._timeout = timeout_seconds
        self._interval = min(INTERVAL_SECONDS, timeout_seconds / 10)
        self._state, self._number = "here", 0
        self._seen = range(len(people)) if rank == 0 else range(1)
        now = time.monotonic()
        self._roll = Roll(len(self._seen), interval_seconds=self._interval, now=now)
        self._heard = dict.fromkeys(range(len(people)), Beat(*json.loads(FIRST_BEAT)))
        self._answers = 0
        self._broken = False
        self._standstill_at = STANDSTILL_SECONDS
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
                _last_words(f"megaphi: {message}")
                os._exit(EXIT_CODE)

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
        beat = Beat(self._number, self._doing.step, self._doing.phase, self._state)
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
            self._end("the others considered this rank lost and have ended: " * accused + verdict["text"])
        self._roll.note(self._read(self._seen), now=time.monotonic())
        if any(beat.state not in ("here", "left") for beat in self._roll.beats):
            self._hurry.set()
            self._wake.set()
        verdict = self._judge()
        if verdict is not None:
            ranks, text = verdict
            if self._rank == 0:
                self._store.set("heartbeat/verdict", json.dumps({"ranks": ranks, "text": text}))
            self._end(text)
        if self._rank == 0:
            self._report_standstill()

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
        return None

    def _report_standstill(self) -> None:
        """Report a job in which all ranks are alive but none progresses: a rank that hangs keeps all others in a
        collective.
        """
        if self._roll.standing_seconds == 0.0:
            self._standstill_at = STANDSTILL_SECONDS
        is_training = any(beat.step for beat in self._roll.beats)
        if self._roll.standing_seconds < self._standstill_at or not is_training:
            return
        self._standstill_at *= 2
        everybody = range(len(self._people))
        logger.warning(
            "no rank has moved for %d s: %s",
            self._roll.standing_seconds,
            whereabouts(everybody, self._people, self._roll.beats),
        )

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
                self._end(self._about_the_store(silent))

    def _about_the_store(self, silent: float) -> str:
        what = (
            "its store has closed the connection" if self._broken else f"its store does not answer for {silent:.0f} s"
        )
        return (
            f"rank 0 is lost ({what}: stopped, killed, or the link to it is down): "
            f"{whereabouts([0], self._people, self._roll.beats)}"
        )

    def _end(self, text: str) -> None:
        """Report the reason, dump the stacks of all threads, and end the process, whatever it is doing."""
        with self._ending:
            here = f"rank {self._rank} on {self._people[self._rank].host} ends in step {self._doing.step}, "
            message = f"megaphi: {here}{self._doing.phase}: {text}"
            speaker = Thread(target=_last_words, args=(message,), daemon=True)
            speaker.start()
            speaker.join(2.0)  # a blocked terminal or disk must not keep us
            if self._rank == 0:
                time.sleep(min(LINGER_SECONDS, 2.5 * self._interval))
            os._exit(EXIT_CODE)


def _last_words(message: str) -> None:
    line = f"{message}\n".encode(errors="backslashreplace")
    os.write(log.terminal(), line)
    if log.rank_log is not None:
        os.write(log.rank_log, line)
        faulthandler.dump_traceback(log.rank_log, all_threads=True)
    sys.stdout.flush()
