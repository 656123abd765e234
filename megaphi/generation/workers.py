"""Worker threads, one per generator, between those who ask and generators that step.

Request handlers on event loops (`Submission`) and programs (`completions.py`) submit requests and read their outputs; a
worker adds what was submitted for its generator, steps while there is work, and hands every step's outputs to each
reader in one call. Nothing but its worker ever touches a generator.
An exception in one is final for all: every open request fails with it, new ones are refused, and `failure` says why; a
job that has lost ranks has to be restarted.

A generator runs no more requests than it has slots for; the others wait here, and take turns (`fair_queue.py`). Memory
is bounded: at most `max_waiting` requests wait for a slot, where a client with few of them takes the place of the one
with the most, and the requests of a reader who leaves outputs unread are held until he reads.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from megaphi.errors import InputError, RunFailed
from megaphi.generation.decoding.interface import Generator, Request, StepOutput, UndefinedLogits, Usage
from megaphi.generation.dispatch import Dispatcher
from megaphi.generation.fair_queue import CallOrigin, FairQueue, call_that_gives_way
from megaphi.log import logger

MOST_UNREAD = 16
"""Outputs of one request that may be unread before it is held."""


class TooManyWaiting(InputError):
    """The queue is full: the same request can succeed later."""


@dataclass(frozen=True, slots=True)
class Load:
    """Open requests."""

    waiting: int
    """Requests without a slot."""
    running: int
    """Requests that have one."""


class OutputReader(Protocol):
    """The owner of requests."""

    def deliver(self, items: Sequence[StepOutput | Exception]) -> None:
        """Take a step's outputs, or the exception that ends the requests; called by a worker, and must not block."""
        ...


class Submission:
    """Requests of a caller on an event loop: an asynchronous iterator over outputs that ends with the last of them."""

    def __init__(self, service: GenerationService, requests: Sequence[Request]) -> None:
        self.requests = tuple(requests)
        self._open = {request.name for request in requests}
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[StepOutput | Exception] = asyncio.Queue()
        self._is_held = False

    def __aiter__(self) -> Submission:
        return self

    async def __anext__(self) -> StepOutput:
        """The next output. Raises InputError if the engine refused a request, RunFailed if it failed for it or all."""
        while self._open:
            item = await self._queue.get()
            if self._is_held and self._queue.qsize() <= MOST_UNREAD // 2:
                self._is_held = False
                self._service.release(self._open)
            if isinstance(item, Exception):
                self.cancel()
                raise item
            if item.name in self._open:
                if item.finish is not None:
                    self._open.discard(item.name)
                if item.finish == "undefined":
                    self.cancel()
                    raise UndefinedLogits
                return item
        raise StopAsyncIteration

    def cancel(self, name: str | None = None) -> None:
        """Cancel one request, or all that are open: no more outputs come. Never blocks."""
        names = self._open & {name} if name is not None else set(self._open)
        self._open -= names
        if names:
            self._service.cancel(names)

    def deliver(self, items: Sequence[StepOutput | Exception]) -> None:
        """From a worker: wake the reader, unless its loop is gone."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._put, items)

    def _put(self, items: Sequence[StepOutput | Exception]) -> None:
        for item in items:
            self._queue.put_nowait(item)
        if not self._is_held and self._queue.qsize() > MOST_UNREAD * len(self.requests):
            self._is_held = True
            self._service.hold(self._open)


class _Worker:
    """A generator, with the commands that its thread is to pass on."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.queue = FairQueue()
        self.cancelled: list[str] = []
        """Requests to cancel that are with the generator."""

    @property
    def has_commands(self) -> bool:
        return bool(self.cancelled) or self.queue.has_commands(self.generator.slots)


def _log_failure(error: Exception) -> None:
    logger.error("the generation engine failed", exc_info=error)


class GenerationService:
    """Runs identical generators for many callers. `start` it once, `close` it at the end."""

    def __init__(
        self,
        *generators: Generator,
        max_waiting: int = 256,
        on_failure: Callable[[Exception], object] | None = None,
    ) -> None:
        """Make the worker without starting it.

        Args:
            max_waiting: requests that may wait for a slot at a time.
            on_failure: called with the exception that ended the service; without one it is logged.
        """
        self.context = generators[0].context
        self.vocabulary = generators[0].vocabulary
        self.max_waiting = max_waiting
        self.failure: str | None = None
        """Reason the engine failed, in one sentence; None while it works."""
        self.is_closing = False
        self._on_failure = on_failure or _log_failure
        self._workers = [_Worker(generator) for generator in generators]
        self._worker_of: dict[str, _Worker] = {}
        self._dispatcher = Dispatcher()
        self._wake = threading.Condition()
        self._owner: dict[str, OutputReader] = {}
        self._numbers = itertools.count()
        self._calls = itertools.count()
        self._threads = [
            threading.Thread(target=self._run, args=(worker,), name="generation", daemon=True)
            for worker in self._workers
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self, *, timeout_seconds: float = 30.0) -> None:
        """Cancel everything, and wait for the current step."""
        with self._wake:
            self.is_closing = True
            self._wake.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout_seconds)

    def usage(self) -> list[Usage]:
        """Usage of every replica."""
        return [worker.generator.usage for worker in self._workers]

    def load(self) -> Load:
        with self._wake:
            running = sum(worker.queue.running for worker in self._workers)
            return Load(waiting=len(self._owner) - running, running=running)

    def submit(self, requests: Sequence[Request], *, client: str = "") -> Submission:
        """`enqueue` for an event loop. Call it on the one that reads."""
        requests = self._with_own_names(requests)
        submission = Submission(self, requests)
        self._enqueue(requests, submission, client)
        return submission

    def enqueue(self, requests: Sequence[Request], reader: OutputReader, *, client: str = "") -> list[Request]:
        """Queue requests; returns them with the names that their outputs have, made unique by a number behind them.

        Args:
            client: who asks; clients take turns.

        Raises:
            TooManyWaiting: the queue is full, and no other client has more in it.
            RunFailed: the engine has failed, or is being closed.
        """
        requests = self._with_own_names(requests)
        self._enqueue(requests, reader, client)
        return requests

    def _with_own_names(self, requests: Sequence[Request]) -> list[Request]:
        return [replace(request, name=f"{request.name}/{next(self._numbers)}") for request in requests]

    def _enqueue(self, requests: Sequence[Request], reader: OutputReader, client: str) -> None:
        names = [request.name for request in requests]
        with self._wake:
            if self.failure or self.is_closing:
                raise RunFailed(self.failure or "the server is shutting down")
            displaced = self._make_room(client, len(names))
            self._owner.update(dict.fromkeys(names, reader))
            origin = CallOrigin(client, next(self._calls))
            for request in requests:
                busy = [len(worker.queue.open) for worker in self._workers]
                worker = self._workers[self._dispatcher.choose(request.prompt, busy)]
                worker.queue.put(request, origin)
                self._worker_of[request.name] = worker
            self._wake.notify_all()
        for owner in displaced:
            owner.deliver([TooManyWaiting(f"more than {self.max_waiting} requests are waiting: try again later")])

    def _make_room(self, client: str, count: int) -> set[OutputReader]:
        """Remove waiting calls that give way to one of `client` until its `count` requests fit in.

        Returns their owners; the caller holds the lock. Raises TooManyWaiting if that does not make enough room.
        """
        displaced: set[OutputReader] = set()
        while True:
            waiting = sum(len(worker.queue.open) - worker.queue.running for worker in self._workers)
            if waiting + count <= self.max_waiting:
                return displaced
            names = call_that_gives_way(
                (one for worker in self._workers for one in worker.queue.waiting), client, count
            )
            if not names:
                raise TooManyWaiting(
                    f"{waiting} requests are waiting and {count} more would exceed the limit of "
                    f"{self.max_waiting}: try again later"
                )
            displaced |= {self._owner[name] for name in names}
            for name in names:
                self._drop(name)

    def cancel(self, names: Iterable[str]) -> None:
        """Cancel requests; the engine drops them before its next step."""
        with self._wake:
            for name in names:
                self._drop(name)
            self._wake.notify_all()

    def hold(self, names: Iterable[str]) -> None:
        """Let requests rest, whose outputs nobody reads, until they are released."""
        with self._wake:
            for name in self._worker_of.keys() & set(names):
                self._worker_of[name].queue.hold(name)
            self._wake.notify_all()

    def release(self, names: Iterable[str]) -> None:
        """Let held requests have a slot again."""
        with self._wake:
            for name in self._worker_of.keys() & set(names):
                self._worker_of[name].queue.release(name)
            self._wake.notify_all()

    def _drop(self, name: str) -> None:
        """Remove a request that has not ended, from its generator too. The caller holds the lock."""
        worker = self._worker_of.get(name)
        if worker is not None and self._forget_in_queue(name, worker):
            worker.cancelled.append(name)
        self._owner.pop(name, None)

    def _forget(self, name: str) -> OutputReader | None:
        """Remove a request that has ended; returns its owner. The caller holds the lock."""
        worker = self._worker_of.get(name)
        if worker is not None:
            self._forget_in_queue(name, worker)
        return self._owner.pop(name, None)

    def _forget_in_queue(self, name: str, worker: _Worker) -> bool:
        """Remove a request from its worker; returns whether the generator has it."""
        del self._worker_of[name]
        return worker.queue.remove(name)

    def _run(self, worker: _Worker) -> None:
        try:
            while self._run_commands(worker):
                self._distribute(worker.generator.step())
            self._fail(self.failure or "the server is shutting down")
        except Exception as error:
            self._fail(f"the engine failed: {type(error).__name__}: {error}")
            self._on_failure(error)

    def _run_commands(self, worker: _Worker) -> bool:
        """Wait for work and pass commands to the generator; False when the service closes or has failed."""
        generator = worker.generator
        with self._wake:
            self._wake.wait_for(lambda: self.is_closing or self.failure or worker.has_commands or not generator.is_idle)
            cancelled, worker.cancelled = worker.cancelled, []
            ends = self.is_closing or self.failure is not None
            commands = [] if ends else worker.queue.next_commands(generator.slots, generator.usage.starved)
            if ends:
                cancelled = [*cancelled, *worker.queue.open]
        for name in cancelled:
            generator.cancel(name)
        for method, request in commands:
            if method == "add":
                self._add(generator, request)
            else:
                (generator.suspend if method == "suspend" else generator.resume)(request.name)
        return not ends

    def _add(self, generator: Generator, request: Request) -> None:
        try:
            generator.add(request)
        except InputError as error:
            with self._wake:
                owner = self._forget(request.name)
            if owner is not None:
                owner.deliver([error])

    def _distribute(self, outputs: Sequence[StepOutput]) -> None:
        """Hand a step's outputs to their owners; requests cancelled meanwhile have none."""
        of_owner: dict[OutputReader, list[StepOutput]] = defaultdict(list)
        with self._wake:
            for output in outputs:
                if (worker := self._worker_of.get(output.name)) is not None:
                    worker.queue.count(output.name)
                owner = self._forget(output.name) if output.finish else self._owner.get(output.name)
                if owner is not None:
                    of_owner[owner].append(output)
        for owner, items in of_owner.items():
            owner.deliver(items)

    def _fail(self, reason: str) -> None:
        with self._wake:
            self.failure = self.failure or reason
            owners = set(self._owner.values())
            self._owner.clear()
            self._wake.notify_all()
        for owner in owners:
            owner.deliver([RunFailed(reason)])
