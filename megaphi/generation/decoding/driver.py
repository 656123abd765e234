"""Generators on rank 0 for whoever comes with requests, one for each replica, and the other ranks, which follow.

What reaches rank 0 between two steps of a replica is told to the ranks of that replica before the step, so that their
schedulers decide the same. The first rank of another replica than rank 0's own hears it over a line of its own (a
group of two), tells the rest of its replica, and answers with the step's news: replicas never wait for each other. A
rank that has nothing to do waits for the next word; who speaks to it breaks the silence before the wait times out.
A rank that dies, stops or is cut off ends the job: the heartbeat tells every rank which one it was.
"""

from __future__ import annotations

import datetime
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as distributed

from megaphi.checkpoint.weight_reader import WeightReader
from megaphi.engine.inference.forward_only import from_first_rank, open_model
from megaphi.generation.decoding.inference_engine import Engine
from megaphi.generation.decoding.interface import Generator, News, Request, Usage
from megaphi.generation.decoding.json_constraint import Constraints
from megaphi.parallel.heartbeat import Patience
from megaphi.parallel.layout import Coordinates, ParallelLayout
from megaphi.parallel.world import USUAL_PATIENCE

QUIET_SECONDS = 60.0
LONGEST_STEP = datetime.timedelta(seconds=600)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Word:
    """What is told to other ranks before a step."""

    orders: tuple[Request | str, ...] = ()
    """Requests that were added and names that were cancelled, in order: a name may be used again."""
    steps: bool = False
    ends: bool = False


def open_generators(
    reader: WeightReader,
    *,
    layout: ParallelLayout,
    rows: int,
    constraints: Constraints | None = None,
    patience: Patience = USUAL_PATIENCE,
) -> list[Generator]:
    """A model, ready to generate: a generator for each replica. Comes back on rank 0; the other ranks follow, and exit.

    Raises:
        InputError: the model does not fit the layout.
    """
    model = open_model(reader, layout, patience=patience)
    generators = lead_or_follow(Engine(model, rows=rows, constraints=constraints))
    if not generators:
        sys.exit(0)
    return generators


def lead_or_follow(engine: Engine) -> list[Generator]:
    """On rank 0 the generators of all replicas; on other ranks nothing, once rank 0 has let them go. Collective."""
    world = engine.model.world
    world.activity.phase = "serving"
    lines = [_Line.to_replica(number, engine) for number in range(1, world.replicas)]
    is_first = (world.place.tensor, world.place.pipeline) == (0, 0)
    if not is_first:
        follow(engine)
        return []
    own: Engine | Leader = Leader(engine) if world.layout.model_ranks > 1 else engine
    if world.is_main:
        return [own, *(DistantReplica(engine, line) for line in lines)]
    try:
        serve_line(own, lines[world.replica - 1])
    finally:
        if isinstance(own, Leader):
            own.close()
    return []


class _Voice:
    """Says words one at a time, one every minute if there is nothing to say, and a last one."""

    def __init__(self, tell: Callable[[_Word], object]) -> None:
        self._tell = tell
        self._speaking = threading.Lock()
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._break_silence, name="leader", daemon=True)
        self._keeper.start()
        # Before the interpreter joins its threads, and long before torch leaves the job.
        threading._register_atexit(self.close)  # pyright: ignore[reportAttributeAccessIssue]

    def say(self, word: _Word, then: Callable[[], Value]) -> Value:
        """Nothing else is said before `then` is done."""
        with self._speaking:
            self._tell(word)
            return then()

    def close(self) -> None:
        """The last word; safe to say twice."""
        with self._speaking:
            if not self._closed.is_set():
                self._closed.set()
                with suppress(RuntimeError):  # those who would hear it are gone
                    self._tell(_Word(ends=True))

    def _break_silence(self) -> None:
        while not self._closed.wait(QUIET_SECONDS):
            with self._speaking:
                if not self._closed.is_set():
                    self._tell(_Word())


class Leader:
    """The engine of a replica's first rank; every call that changes it reaches the replica's other ranks."""

    def __init__(self, engine: Engine) -> None:
        self.context, self.vocabulary = engine.context, engine.vocabulary
        self._engine = engine
        self._orders: list[Request | str] = []
        self._voice = _Voice(lambda word: from_first_rank(engine.model, word))

    def add(self, request: Request) -> None:
        self._engine.add(request)
        self._orders.append(request)

    def cancel(self, name: str) -> None:
        self._engine.cancel(name)
        self._orders.append(name)

    def step(self) -> list[News]:
        orders, self._orders = self._orders, []
        return self._voice.say(_Word(tuple(orders), steps=True), self._engine.step)

    @property
    def usage(self) -> Usage:
        return self._engine.usage

    @property
    def is_idle(self) -> bool:
        return self._engine.is_idle

    def close(self) -> None:
        self._voice.close()


def follow(engine: Engine) -> None:
    """Do what the replica's first rank does until it ends."""
    while not (word := from_first_rank(engine.model, None)).ends:
        _obey(engine, word)
        if word.steps:
            engine.step()


def _obey(generator: Generator, word: _Word) -> None:
    for order in word.orders:
        if isinstance(order, Request):
            generator.add(order)
        else:
            generator.cancel(order)


@dataclass(frozen=True, slots=True)
class _Line:
    """Rank 0 and the first rank of another replica."""

    group: Any
    rank: int

    @classmethod
    def to_replica(cls, number: int, engine: Engine) -> _Line:
        """Collective over all ranks."""
        rank = engine.model.world.layout.rank_of(Coordinates(0, 0, number, 0))
        return cls(distributed.new_group([0, rank], backend="gloo", timeout=LONGEST_STEP), rank)

    def send(self, message: Any, *, to: int) -> None:
        distributed.send_object_list([message], dst=to, group=self.group)

    def receive(self, *, source: int) -> Any:
        received = [None]
        distributed.recv_object_list(received, src=source, group=self.group)
        return received[0]


class DistantReplica:
    """Another replica than rank 0's own, as its generator on rank 0. What can never run is known without asking it."""

    def __init__(self, engine: Engine, line: _Line) -> None:
        """`engine`: of rank 0, whose bounds are those of every replica."""
        self.context, self.vocabulary = engine.context, engine.vocabulary
        self.usage = Usage()
        self._check = engine.check
        self._line = line
        self._orders: list[Request | str] = []
        self._open: set[str] = set()
        self._voice = _Voice(lambda word: line.send(word, to=line.rank))

    def add(self, request: Request) -> None:
        self._check(request)
        self._open.add(request.name)
        self._orders.append(request)

    def cancel(self, name: str) -> None:
        if name in self._open:
            self._orders.append(name)

    def step(self) -> list[News]:
        orders, self._orders = self._orders, []
        hear = lambda: self._line.receive(source=self._line.rank)  # noqa: E731
        news, self.usage = self._voice.say(_Word(tuple(orders), steps=True), hear)
        self._open -= {item.name for item in news if item.finish is not None}
        return news

    @property
    def is_idle(self) -> bool:
        return not self._open

    def close(self) -> None:
        self._voice.close()


def serve_line(generator: Generator, line: _Line) -> None:
    """On a replica's first rank: do what rank 0 says until it ends, and answer each step with its news."""
    while not (word := line.receive(source=0)).ends:
        _obey(generator, word)
        if word.steps:
            news = generator.step()
            line.send((news, generator.usage), to=0)
