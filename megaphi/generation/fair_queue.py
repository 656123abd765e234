"""The queue before one generator: clients take turns, and so do the calls of one client.

The next free slot goes to the client who has the fewest; of his requests, to one of the call whose turn it is. Where
all slots are taken, a request displaces one that has had its turn: of a client who has more slots, or of another call
of the same client if it has not begun yet. The displaced request is suspended and queues once more; its tokens do not
change. So a newcomer waits for a turn at most, however long the answers of the others are, and a single client's calls
begin in the order in which they came.

A turn is longer for a long sequence, whose cache may have to be computed again. A request whose outputs nobody reads is
held: it has no slot until they are read. A program's own requests have no address, and do not displace each other.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from megaphi.generation.decoding.interface import Request
from megaphi.generation.dispatch import BLOCK_TOKENS

TURN_TOKENS = 32
"""Tokens of an answer before it can be displaced."""
TOKENS_PER_TURN_TOKEN = 64
"""A turn has one token more for so many tokens of the sequence."""
Command = tuple[Literal["add", "suspend", "resume"], Request]
"""A call of one of the generator's methods."""


@dataclass(frozen=True, slots=True)
class CallOrigin:
    """Address of the client, "" in a program, and number of the call that the request is a part of."""

    client: str = ""
    call: int = 0


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A request that has not ended."""

    request: Request
    origin: CallOrigin
    is_known: bool = False
    """True once the generator has it, running or suspended."""
    is_held: bool = False
    tokens: int = 0
    """Outputs so far."""
    turn_tokens: int = 0
    """Outputs of the turn that it has, or had last."""

    @property
    def turn_is_over(self) -> bool:
        """Best at the end of a block of the cache: if that is still there later, nothing is computed twice."""
        length = len(self.request.prompt) + self.tokens
        beyond = self.turn_tokens - TURN_TOKENS - length // TOKENS_PER_TURN_TOKEN
        return beyond >= BLOCK_TOKENS or (beyond >= 0 and (length - 1) % BLOCK_TOKENS == 0)


@dataclass(slots=True)
class FairQueue:
    """All open requests of one generator."""

    open: dict[str, QueuedRequest] = field(default_factory=dict)
    """By name."""
    _ready: OrderedDict[str, OrderedDict[int, dict[str, QueuedRequest]]] = field(default_factory=OrderedDict)
    """By client, in the order of their turns, and by call: those that wait for a slot."""
    _in_turn: dict[str, QueuedRequest] = field(default_factory=dict)
    """Those that have a slot."""
    _to_suspend: list[Request] = field(default_factory=list)
    """Those that were held while they had a slot."""

    @property
    def waiting(self) -> list[QueuedRequest]:
        """Requests that have no slot."""
        return [one for name, one in self.open.items() if name not in self._in_turn]

    @property
    def running(self) -> int:
        return len(self._in_turn)

    def has_commands(self, slots: int) -> bool:
        """Return whether there is something to do without another step."""
        return bool(self._to_suspend) or (bool(self._ready) and len(self._in_turn) < slots)

    def put(self, request: Request, origin: CallOrigin) -> None:
        self.open[request.name] = QueuedRequest(request, origin)
        self._make_ready(self.open[request.name])

    def remove(self, name: str) -> bool:
        """Remove a request that has ended or is cancelled; returns whether the generator has it."""
        one = self.open.pop(name)
        self._take_out(one)
        return one.is_known

    def count(self, name: str) -> None:
        """An output of a request has come."""
        if (one := self.open.get(name)) is not None:
            one.tokens += 1
            one.turn_tokens += 1

    def hold(self, name: str) -> None:
        """Give a request no slot until `release`."""
        one = self.open[name]
        if name in self._in_turn:
            self._to_suspend.append(one.request)
        self._take_out(one)
        one.is_held = True

    def release(self, name: str) -> None:
        """Let a held request wait for a slot."""
        one = self.open[name]
        if one.is_held:
            one.is_held = False
            self._make_ready(one)

    def next_commands(self, slots: int, starved: Collection[str] = ()) -> list[Command]:
        """Decide what the generator does before its next step.

        Args:
            slots: requests that it runs at once.
            starved: of those with a slot, the ones that its cache has no room for.
        """
        commands: list[Command] = [("suspend", request) for request in self._to_suspend]
        self._to_suspend.clear()
        commands += self._make_room_in_cache(starved)
        while self._ready:
            if len(self._in_turn) < slots:
                one = self._first_of(min(self._ready, key=self._slots_by_client(starved).__getitem__))
            elif (pair := self._exchange(starved)) is not None:
                one, displaced = pair
                commands.append(self._end_turn(displaced))
            else:
                break
            commands.append(self._begin_turn(one))
        return commands

    def _make_room_in_cache(self, starved: Collection[str]) -> list[Command]:
        """Displace one request for the starved ones: each step shows whether that was enough."""
        slots_by_client = self._slots_by_client(starved) if starved else Counter()
        for name in starved:
            one = self._in_turn.get(name)
            if one is not None and (displaced := self._displaced_by(one, slots_by_client)) is not None:
                return [self._end_turn(displaced)]
        return []

    def _exchange(self, starved: Collection[str]) -> tuple[QueuedRequest, QueuedRequest] | None:
        """(a ready request, the one that it displaces); None if no turn is over."""
        slots_by_client = self._slots_by_client(starved)
        for client in sorted(self._ready, key=slots_by_client.__getitem__):
            for one in (self._first_of(client), self._first_new_of(client)):
                if one is not None and (displaced := self._displaced_by(one, slots_by_client)) is not None:
                    return one, displaced
        return None

    def _displaced_by(self, one: QueuedRequest, slots_by_client: Counter[str]) -> QueuedRequest | None:
        """The request of the client with the most slots whose turn is over, seen from `one`."""
        if not one.origin.client:
            return None
        own = slots_by_client[one.origin.client]

        def gives_way(other: QueuedRequest) -> bool:
            if not other.turn_is_over:
                return False
            if other.origin.client == one.origin.client:
                return not one.tokens and other.origin.call != one.origin.call
            return not own or slots_by_client[other.origin.client] >= own + 2

        others = (other for other in self._in_turn.values() if other is not one and gives_way(other))
        rank = lambda other: (slots_by_client[other.origin.client], other.turn_tokens)  # noqa: E731
        return max(others, key=rank, default=None)

    def _slots_by_client(self, starved: Collection[str]) -> Counter[str]:
        return Counter(one.origin.client for name, one in self._in_turn.items() if name not in starved)

    def _first_of(self, client: str) -> QueuedRequest:
        return next(self._ready_of(client))

    def _first_new_of(self, client: str) -> QueuedRequest | None:
        return next((one for one in self._ready_of(client) if not one.tokens), None)

    def _ready_of(self, client: str) -> Iterator[QueuedRequest]:
        return (one for call in self._ready[client].values() for one in call.values())

    def _begin_turn(self, one: QueuedRequest) -> Command:
        self._take_out(one)
        if (calls := self._ready.get(one.origin.client)) is not None:
            self._ready.move_to_end(one.origin.client)
            if one.origin.call in calls:
                calls.move_to_end(one.origin.call)
        self._in_turn[one.request.name] = one
        one.turn_tokens = 0
        method = "resume" if one.is_known else "add"
        one.is_known = True
        return method, one.request

    def _end_turn(self, one: QueuedRequest) -> Command:
        del self._in_turn[one.request.name]
        self._make_ready(one)
        return "suspend", one.request

    def _make_ready(self, one: QueuedRequest) -> None:
        calls = self._ready.setdefault(one.origin.client, OrderedDict())
        calls.setdefault(one.origin.call, {})[one.request.name] = one

    def _take_out(self, one: QueuedRequest) -> None:
        """Take a request out of those that are ready or have a slot."""
        client, call, name = one.origin.client, one.origin.call, one.request.name
        self._in_turn.pop(name, None)
        if name in self._ready.get(client, {}).get(call, {}):
            del self._ready[client][call][name]
            if not self._ready[client][call]:
                del self._ready[client][call]
            if not self._ready[client]:
                del self._ready[client]


def call_that_gives_way(waiting: Iterable[QueuedRequest], client: str, count: int) -> list[str]:
    """Names of the waiting requests of a call that makes room for a new one of `count` requests; empty if none does.

    That is the latest call of the client who has the most waiting, if that is more than `client` would have; otherwise
    the largest of the client's own that is larger than the new one. In both cases calls that are held come first.
    """
    calls: dict[CallOrigin, list[QueuedRequest]] = {}
    for one in waiting:
        calls.setdefault(one.origin, []).append(one)
    totals = Counter({origin.client: 0 for origin in calls})
    for origin, requests in calls.items():
        totals[origin.client] += len(requests)
    own = totals.pop(client, 0)
    greediest, most = totals.most_common(1)[0] if totals else ("", 0)
    ranks: dict[CallOrigin, tuple[int, ...]] = {}
    for origin, requests in calls.items():
        is_held = any(one.is_held for one in requests)
        if most > own + count and origin.client == greediest:
            ranks[origin] = (is_held, origin.call)
        elif most <= own + count and origin.client == client and (is_held or len(requests) > count):
            ranks[origin] = (is_held, len(requests), origin.call)
    return [one.request.name for one in calls[max(ranks, key=ranks.__getitem__)]] if ranks else []
