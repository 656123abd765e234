"""A generator on rank 0 for whoever comes with requests, and the other ranks of the model, which follow it.

What reaches rank 0 between two steps is told to all ranks before the step, so that their schedulers decide the same. A
rank that has nothing to do waits in a broadcast; rank 0 breaks the silence now and then, before the wait times out.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from typing import Any

import torch.distributed as distributed

from megaphi.engine.forward_only import open_model
from megaphi.engine.weight_reader import WeightReader
from megaphi.generation.engine import Engine
from megaphi.generation.json_constraint import Constraints
from megaphi.generation.requests import Generator, News, Request
from megaphi.parallel.layout import ParallelLayout

QUIET_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Word:
    """What rank 0 tells the others before a step."""

    orders: tuple[Request | str, ...] = ()
    """Requests that were added and names that were cancelled, in order: a name may be used again."""
    steps: bool = False
    ends: bool = False


def open_generator(
    reader: WeightReader, *, layout: ParallelLayout, rows: int, constraints: Constraints | None = None
) -> Generator:
    """A model, ready to generate. Comes back on rank 0; the other ranks follow it in here, and exit.

    Raises:
        InputError: the model does not fit the layout.
    """
    engine = Engine(open_model(reader, layout), rows=rows, constraints=constraints)
    if engine.model.world.size == 1:
        return engine
    if not engine.model.world.is_main:
        follow(engine)
        sys.exit(0)
    return Leader(engine)


class Leader:
    """The engine of rank 0; every call that changes it reaches the other ranks. `close` lets them go."""

    def __init__(self, engine: Engine) -> None:
        self.context, self.vocabulary = engine.context, engine.vocabulary
        self._engine = engine
        self._orders: list[Request | str] = []
        self._speaking = threading.Lock()
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._break_silence, name="leader", daemon=True)
        self._keeper.start()
        # Before the interpreter joins its threads, and long before torch leaves the job.
        threading._register_atexit(self.close)  # pyright: ignore[reportAttributeAccessIssue]

    def add(self, request: Request) -> None:
        self._engine.add(request)
        self._orders.append(request)

    def cancel(self, name: str) -> None:
        self._engine.cancel(name)
        self._orders.append(name)

    def step(self) -> list[News]:
        with self._speaking:
            _tell(_Word(tuple(self._orders), steps=True))
            self._orders = []
            return self._engine.step()

    @property
    def is_idle(self) -> bool:
        return self._engine.is_idle

    def close(self) -> None:
        """The last word; safe to say twice."""
        with self._speaking:
            if not self._closed.is_set():
                self._closed.set()
                _tell(_Word(ends=True))

    def _break_silence(self) -> None:
        while not self._closed.wait(QUIET_SECONDS):
            with self._speaking:
                if not self._closed.is_set():
                    _tell(_Word())


def follow(engine: Engine) -> None:
    """Do what rank 0 does until it ends."""
    while not (word := _tell(None)).ends:
        for order in word.orders:
            if isinstance(order, Request):
                engine.add(order)
            else:
                engine.cancel(order)
        if word.steps:
            engine.step()


def _tell(word: _Word | None) -> Any:
    shared = [word]
    distributed.broadcast_object_list(shared, src=0)
    return shared[0]
