"""Drives the inference engines of a job from rank 0, which has a generator for each replica; the other ranks follow.

What reaches rank 0 between two steps of a replica is sent to the ranks of that replica before the step, as a control
message, so that their schedulers decide the same. The first rank of every other replica receives it over a link of its
own (a group of two), broadcasts it within its replica, and returns the step's outputs: replicas never wait for each
other. An idle rank waits for the next message; keepalives come before that wait times out. A rank that dies, stops or
is cut off ends the job: the heartbeat tells every rank which one it was.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch.distributed as distributed

from megaphi.engine.inference.forward_only import broadcast_from_first_rank
from megaphi.generation.decoding.inference_engine import InferenceEngine
from megaphi.generation.decoding.interface import Generator, Request, StepOutput, Usage
from megaphi.parallel.exchange import receive, send
from megaphi.parallel.layout import Coordinates

KEEPALIVE_SECONDS = 60.0
LONGEST_STEP = datetime.timedelta(seconds=600)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Change:
    """A call of one of the generator's methods with a request's name."""

    name: str
    method: Literal["cancel", "suspend", "resume"]


@dataclass(frozen=True, slots=True)
class _ControlMessage:
    """Message to the other ranks: the work before the next step, and whether there is one."""

    commands: tuple[Request | _Change, ...] = ()
    """Requests that were added and what becomes of others, in order: a name may be used again."""
    runs_step: bool = False
    is_last: bool = False


def drive(engine: InferenceEngine) -> list[Generator]:
    """On rank 0: a generator for every replica. Collective; every other rank calls `follow`."""
    links = _open_links(engine)
    return [_drive_replica(engine), *(RemoteReplica(engine, link) for link in links)]


def follow(engine: InferenceEngine) -> None:
    """On every other rank than 0: do what rank 0 says, until it closes its generators. Collective with `drive`."""
    world = engine.model.world
    links = _open_links(engine)
    if (world.place.tensor, world.place.pipeline) != (0, 0):
        _follow_replica(engine)
        return
    own = _drive_replica(engine)
    try:
        serve_remotely(own, links[world.replica - 1])
    finally:
        if isinstance(own, ReplicaDriver):
            own.close()


def _open_links(engine: InferenceEngine) -> list[_ReplicaLink]:
    """One for each replica but rank 0's. Collective over all ranks."""
    world = engine.model.world
    world.activity.phase = "serving"
    return [_ReplicaLink.open(number, engine) for number in range(1, world.replicas)]


def _drive_replica(engine: InferenceEngine) -> InferenceEngine | ReplicaDriver:
    """The generator of this rank's replica, whose first rank it is."""
    return ReplicaDriver(engine) if engine.model.world.layout.model_ranks > 1 else engine


class _MessageSender:
    """Sends control messages one at a time, a keepalive every minute when idle, and a last one."""

    def __init__(self, transmit: Callable[[_ControlMessage], object]) -> None:
        self._transmit = transmit
        self._sending = threading.Lock()
        self._closed = threading.Event()
        self._keepalive = threading.Thread(target=self._keep_alive, name="keepalive", daemon=True)
        self._keepalive.start()
        # Runs before the interpreter joins its threads, and long before torch leaves the job.
        threading._register_atexit(self.close)  # pyright: ignore[reportAttributeAccessIssue]

    def send(self, message: _ControlMessage, then: Callable[[], Value]) -> Value:
        """Send, and return what `then` returns; nothing else is sent before it is done."""
        with self._sending:
            self._transmit(message)
            return then()

    def close(self) -> None:
        """Send the last message; may be called twice."""
        with self._sending:
            if not self._closed.is_set():
                self._closed.set()
                with suppress(RuntimeError):  # the receivers are gone
                    self._transmit(_ControlMessage(is_last=True))

    def _keep_alive(self) -> None:
        while not self._closed.wait(KEEPALIVE_SECONDS):
            with self._sending:
                if not self._closed.is_set():
                    self._transmit(_ControlMessage())


class ReplicaDriver:
    """The engine of a replica's first rank; every call that changes it is repeated on the replica's other ranks."""

    def __init__(self, engine: InferenceEngine) -> None:
        self.context, self.vocabulary, self.slots = engine.context, engine.vocabulary, engine.slots
        self._engine = engine
        self._commands: list[Request | _Change] = []
        self._sender = _MessageSender(lambda message: broadcast_from_first_rank(engine.model, message, _ControlMessage))

    def add(self, request: Request) -> None:
        self._engine.add(request)
        self._commands.append(request)

    def cancel(self, name: str) -> None:
        self._change(_Change(name, "cancel"))

    def suspend(self, name: str) -> None:
        self._change(_Change(name, "suspend"))

    def resume(self, name: str) -> None:
        self._change(_Change(name, "resume"))

    def _change(self, change: _Change) -> None:
        _apply(self._engine, change)
        self._commands.append(change)

    def step(self) -> list[StepOutput]:
        commands, self._commands = self._commands, []
        return self._sender.send(_ControlMessage(tuple(commands), runs_step=True), self._engine.step)

    @property
    def usage(self) -> Usage:
        return self._engine.usage

    @property
    def is_idle(self) -> bool:
        return self._engine.is_idle

    def close(self) -> None:
        self._sender.close()


def _follow_replica(engine: InferenceEngine) -> None:
    """On a replica's other ranks: repeat what its first rank does, until its last message."""
    while not (message := broadcast_from_first_rank(engine.model, None, _ControlMessage)).is_last:
        _run_commands(engine, message)
        if message.runs_step:
            engine.step()


def _run_commands(generator: Generator, message: _ControlMessage) -> None:
    for command in message.commands:
        _apply(generator, command)


def _apply(generator: Generator, command: Request | _Change) -> None:
    if isinstance(command, Request):
        generator.add(command)
    else:
        {"cancel": generator.cancel, "suspend": generator.suspend, "resume": generator.resume}[command.method](
            command.name
        )


@dataclass(frozen=True, slots=True)
class _ReplicaLink:
    """A connection between rank 0 and the first rank of another replica."""

    group: Any
    rank: int

    @classmethod
    def open(cls, replica: int, engine: InferenceEngine) -> _ReplicaLink:
        """Collective over all ranks."""
        rank = engine.model.world.layout.rank_of(Coordinates(0, 0, replica, 0))
        return cls(distributed.new_group([0, rank], backend="gloo", timeout=LONGEST_STEP), rank)

    def send(self, message: Any, *, to: int) -> None:
        send(message, to=to, group=self.group)

    def receive(self, kind: Any, *, source: int) -> Any:
        return receive(kind, source=source, group=self.group)


class RemoteReplica:
    """The generator on rank 0 of another replica than its own. It refuses what can never run without asking it."""

    def __init__(self, engine: InferenceEngine, link: _ReplicaLink) -> None:
        """`engine`: that of rank 0, whose limits are those of every replica."""
        self.context, self.vocabulary, self.slots = engine.context, engine.vocabulary, engine.slots
        self.usage = Usage()
        self._check = engine.check
        self._link = link
        self._commands: list[Request | _Change] = []
        self._open: set[str] = set()
        self._suspended: set[str] = set()
        self._sender = _MessageSender(lambda message: link.send(message, to=link.rank))

    def add(self, request: Request) -> None:
        self._check(request)
        self._open.add(request.name)
        self._commands.append(request)

    def cancel(self, name: str) -> None:
        self._suspended.discard(name)
        self._change(_Change(name, "cancel"))

    def suspend(self, name: str) -> None:
        self._suspended |= self._open & {name}
        self._change(_Change(name, "suspend"))

    def resume(self, name: str) -> None:
        self._suspended.discard(name)
        self._change(_Change(name, "resume"))

    def _change(self, change: _Change) -> None:
        if change.name in self._open:
            self._commands.append(change)

    def step(self) -> list[StepOutput]:
        commands, self._commands = self._commands, []
        receive = lambda: self._link.receive(tuple[list[StepOutput], Usage], source=self._link.rank)  # noqa: E731
        outputs, self.usage = self._sender.send(_ControlMessage(tuple(commands), runs_step=True), receive)
        self._open -= {output.name for output in outputs if output.finish is not None}
        self._suspended &= self._open
        return outputs

    @property
    def is_idle(self) -> bool:
        return self._open == self._suspended

    def close(self) -> None:
        self._sender.close()


def serve_remotely(generator: Generator, link: _ReplicaLink) -> None:
    """On the first rank of another replica than rank 0's: run its commands, return the outputs of each step."""
    while not (message := link.receive(_ControlMessage, source=0)).is_last:
        _run_commands(generator, message)
        if message.runs_step:
            outputs = generator.step()
            link.send((outputs, generator.usage), to=0)
