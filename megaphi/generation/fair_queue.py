"""The queue before one generator: clients take turns, and so do the calls of one client.

The next request is that of the client who has the fewest with the generator already; of his, that of the call whose
turn it is. So a client who queues hundreds of requests delays another's first by the one that is running, not by his
queue. A single client's calls with one request each are taken in the order in which they came.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from megaphi.generation.decoding.interface import Request


@dataclass(frozen=True, slots=True)
class CallOrigin:
    """Address of the client, and number of the call that the request is a part of."""

    client: str = ""
    call: int = 0


@dataclass(slots=True)
class FairQueue:
    """Requests that wait, and how many each client has with the generator."""

    _calls: dict[str, OrderedDict[int, dict[str, Request]]] = field(default_factory=dict)
    """The calls of each client who waits, in the order of their turns, and their requests by name."""
    _origin: dict[str, CallOrigin] = field(default_factory=dict)
    """By name, every request that waits or is with the generator."""
    _with_generator: Counter[str] = field(default_factory=Counter)
    _taken: set[str] = field(default_factory=set)

    @property
    def taken(self) -> int:
        """Requests that are with the generator."""
        return len(self._taken)

    def __bool__(self) -> bool:
        return bool(self._calls)

    def is_taken(self, name: str) -> bool:
        return name in self._taken

    def put(self, request: Request, origin: CallOrigin) -> None:
        self._origin[request.name] = origin
        self._calls.setdefault(origin.client, OrderedDict()).setdefault(origin.call, {})[request.name] = request

    def take(self) -> Request:
        """Remove the next request, which goes to the generator; there must be one."""
        client = min(self._calls, key=lambda one: self._with_generator[one])
        calls = self._calls[client]
        call, requests = next(iter(calls.items()))
        request = requests.pop(next(iter(requests)))
        calls.move_to_end(call)
        self._tidy(client, call)
        self._with_generator[client] += 1
        self._taken.add(request.name)
        return request

    def remove(self, name: str) -> None:
        """Remove a request that has ended or is cancelled."""
        origin = self._origin.pop(name)
        if name not in self._taken:
            del self._calls[origin.client][origin.call][name]
            self._tidy(origin.client, origin.call)
            return
        self._taken.discard(name)
        self._with_generator[origin.client] -= 1
        if not self._with_generator[origin.client]:
            del self._with_generator[origin.client]

    def newest_call(self, client: str) -> list[str]:
        """Names of the waiting requests of the client's latest call."""
        calls = self._calls.get(client)
        return list(calls[max(calls)]) if calls else []

    def waiting_of(self) -> Counter[str]:
        """Waiting requests of each client."""
        return Counter({client: sum(map(len, calls.values())) for client, calls in self._calls.items()})

    def _tidy(self, client: str, call: int) -> None:
        if not self._calls[client][call]:
            del self._calls[client][call]
        if not self._calls[client]:
            del self._calls[client]
