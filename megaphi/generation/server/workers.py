"""The threads that own generators, one for each replica, between handlers that wait and engines that step.

Handlers on an event loop submit requests and read news; a thread adds what was submitted for its generator, steps while
there is work, and hands every step's news to the loops in one call each. Nothing but that thread ever touches the
generator. An exception in one is final for all: every open answer fails with it, new ones are refused, and `failure`
says why; a job that has lost ranks has to be started anew.

Memory is bounded: at most `max_waiting` requests wait for their first token, and a reader who does not read is owed no
more news than the tokens of his answers.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from megaphi.errors import InputError, RunFailed
from megaphi.generation.decoding.interface import Generator, News, Request, Usage
from megaphi.generation.server.dispatch import Dispatch
from megaphi.log import logger


class TooManyWaiting(InputError):
    """The queue is full: the same request can succeed later."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much there is to do."""

    waiting: int
    """Requests without a first token."""
    running: int
    """Requests that have one."""


class Submission:
    """Requests of one caller and the news about them, as an asynchronous iterator that ends with the last of them."""

    def __init__(self, service: GenerationService, requests: Sequence[Request]) -> None:
        self.requests = tuple(requests)
        self._open = {request.name for request in requests}
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[News | Exception] = asyncio.Queue()

    def __aiter__(self) -> Submission:
        return self

    async def __anext__(self) -> News:
        """The next news. Raises what the engine refused a request with (InputError), or RunFailed if it failed."""
        while self._open:
            item = await self._queue.get()
            if isinstance(item, Exception):
                self.cancel()
                raise item
            if item.name in self._open:
                if item.finish is not None:
                    self._open.discard(item.name)
                return item
        raise StopAsyncIteration

    def cancel(self, name: str | None = None) -> None:
        """Call off one request, or all that are open: there will be no more news of it. Never waits."""
        names = self._open & {name} if name is not None else set(self._open)
        self._open -= names
        if names:
            self._service.cancel(names)

    def deliver(self, items: Sequence[News | Exception]) -> None:
        """From the service's thread: wake the reader, unless his loop is gone."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._put, items)

    def _put(self, items: Sequence[News | Exception]) -> None:
        for item in items:
            self._queue.put_nowait(item)


class _Replica:
    """A generator, with what its thread is to tell it."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.added: list[Request] = []
        self.cancelled: list[str] = []
        self.open: set[str] = set()
        """Requests that were given to it and have not ended."""


def _log_failure(error: Exception) -> None:
    logger.error("the generation engine failed", exc_info=error)


class GenerationService:
    """Runs equal generators for many callers. `start` it once, `close` it at the end."""

    def __init__(
        self,
        *generators: Generator,
        max_waiting: int = 256,
        on_failure: Callable[[Exception], object] = _log_failure,
    ) -> None:
        """`max_waiting`: requests that may be without a first token at a time; `on_failure` hears of the end of all."""
        self.context = generators[0].context
        self.vocabulary = generators[0].vocabulary
        self.max_waiting = max_waiting
        self.failure: str | None = None
        """Why the engine is no more, in one sentence; None while it works."""
        self.is_closing = False
        self._on_failure = on_failure
        self._replicas = [_Replica(generator) for generator in generators]
        self._replica_of: dict[str, _Replica] = {}
        self._dispatch = Dispatch()
        self._wake = threading.Condition()
        self._owner: dict[str, Submission] = {}
        self._waiting: set[str] = set()
        self._numbers = itertools.count()
        self._threads = [
            threading.Thread(target=self._run, args=(replica,), name="generation", daemon=True)
            for replica in self._replicas
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self, *, timeout_seconds: float = 30.0) -> None:
        """Call off everything, and wait for the step that is under way."""
        with self._wake:
            self.is_closing = True
            self._wake.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout_seconds)

    def usage(self) -> list[Usage]:
        """Of every replica."""
        return [replica.generator.usage for replica in self._replicas]

    def load(self) -> Load:
        with self._wake:
            return Load(waiting=len(self._waiting), running=len(self._owner) - len(self._waiting))

    def submit(self, requests: Sequence[Request]) -> Submission:
        """Queue requests; their names become unique by a number behind them. Call it on the event loop that reads.

        Raises:
            TooManyWaiting: there is no room for them now.
            RunFailed: the engine has failed, or is being closed.
        """
        requests = [replace(request, name=f"{request.name}/{next(self._numbers)}") for request in requests]
        submission = Submission(self, requests)
        names = [request.name for request in requests]
        with self._wake:
            if self.failure or self.is_closing:
                raise RunFailed(self.failure or "the server is shutting down")
            if len(self._waiting) + len(names) > self.max_waiting:
                raise TooManyWaiting(
                    f"{len(self._waiting)} requests are waiting and {len(names)} more would exceed the limit of "
                    f"{self.max_waiting}: try again later"
                )
            self._owner.update(dict.fromkeys(names, submission))
            self._waiting.update(names)
            for request in requests:
                busy = [len(replica.open) for replica in self._replicas]
                replica = self._replicas[self._dispatch.choose(request.prompt, busy)]
                self._replica_of[request.name] = replica
                replica.open.add(request.name)
                replica.added.append(request)
            self._wake.notify_all()
        return submission

    def cancel(self, names: Iterable[str]) -> None:
        """Forget requests; the engine drops them before its next step."""
        with self._wake:
            for name in names:
                if (replica := self._replica_of.get(name)) is not None:
                    replica.cancelled.append(name)
                    self._forget(name)
            self._wake.notify_all()

    def _forget(self, name: str) -> Submission | None:
        """Who had asked for the request that has ended. The caller holds the lock."""
        self._waiting.discard(name)
        replica = self._replica_of.pop(name, None)
        if replica is not None:
            replica.open.discard(name)
        return self._owner.pop(name, None)

    def _run(self, replica: _Replica) -> None:
        try:
            while self._take_orders(replica):
                self._distribute(replica.generator.step())
            self._fail(self.failure or "the server is shutting down")
        except Exception as error:
            self._fail(f"the engine failed: {type(error).__name__}: {error}")
            self._on_failure(error)

    def _take_orders(self, replica: _Replica) -> bool:
        """Wait for work and pass what was ordered to the generator; False when the service closes, or has failed."""
        generator = replica.generator
        with self._wake:
            self._wake.wait_for(
                lambda: self.is_closing or self.failure or replica.added or replica.cancelled or not generator.is_idle
            )
            added, cancelled = replica.added, replica.cancelled
            replica.added, replica.cancelled = [], []
            ends = self.is_closing or self.failure is not None
            if ends:
                added, cancelled = [], [*cancelled, *replica.open]
        gone = set(cancelled)
        for request in added:
            if request.name not in gone:
                self._add(generator, request)
        for name in cancelled:
            generator.cancel(name)
        return not ends

    def _add(self, generator: Generator, request: Request) -> None:
        try:
            generator.add(request)
        except InputError as error:
            with self._wake:
                owner = self._forget(request.name)
            if owner is not None:
                owner.deliver([error])

    def _distribute(self, news: Sequence[News]) -> None:
        """Hand a step's news to who asked; those about requests called off meanwhile have no owner."""
        of_owner: dict[Submission, list[News]] = defaultdict(list)
        with self._wake:
            for item in news:
                self._waiting.discard(item.name)
                owner = self._forget(item.name) if item.finish else self._owner.get(item.name)
                if owner is not None:
                    of_owner[owner].append(item)
        for owner, items in of_owner.items():
            owner.deliver(items)

    def _fail(self, reason: str) -> None:
        with self._wake:
            self.failure = self.failure or reason
            owners = set(self._owner.values())
            self._owner.clear()
            self._waiting.clear()
            self._wake.notify_all()
        for owner in owners:
            owner.deliver([RunFailed(reason)])
