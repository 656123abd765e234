"""Connections to the server: none may wait for its client for long, and those that wait give way to new ones.

`http_config` has uvicorn use `LimitedProtocol`, its HTTP/1.1 protocol with what that leaves out. Each connection is in
one phase: waiting for a head or for the rest of a body, answering, sending to a client that does not read, or closing.
Once a second a sweep ends those that have been in a phase for too long; a body may take longer the more of it has come,
as in Apache's mod_reqtimeout. When all places are taken, or all of one client's, the connection that has waited longest
for its client is ended for the new one: half-open connections, however many, keep nobody out. A body in chunks is
refused by the size that a chunk announces, and when its chunks are mostly frame. Where more requests come than begin in
a second, clients take turns: thousands of pipelined ones leave the event loop's time to the others.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Literal

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from megaphi.log import logger

Phase = Literal["head", "body", "answering", "sending", "closing"]
READ_BYTES = 4_096
"""Input is parsed in pieces of this size, so that a client is cut off soon after the piece that shows what it does."""
LARGEST_CHUNK_FRAMES = 4_096
"""Bytes of chunk frames in one body beyond as many as it has of content."""
WRITE_BYTES = 32_768
"""An answer waits for its client with so much in the kernel, and a quarter of it here."""
BACKLOG = 512
UNREAD_SECONDS = 0.05
"""Time in which what a new connection brings is read; meanwhile there may be as many as the backlog too many."""
REQUESTS_AT_ONCE = 64
"""Requests that begin without a pause after the server has had fewer for a moment."""
RESERVED_FILES = 256
"""Open files of the process that are no connections."""
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
    b'{"error":{"message":"all connections of this server are in use","type":"server_error","param":null,"code":null}}'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionLimits:
    """Limits of connections and of the time for which they may wait for their clients."""

    connections: int = 1024
    per_client: int = 512
    """Connections of one address."""
    head_seconds: float = 10.0
    """For a whole head of a request, from the connection's first moment or the head's first byte."""
    body_seconds: float = 20.0
    """For a whole body, and a second more for every `body_bytes_per_second` of it that have come."""
    body_bytes_per_second: int = 16_384
    write_seconds: float = 20.0
    """For a client to read some of an answer when the buffers are full, and to read the rest of one that is over."""
    largest_body_bytes: int = 8 * 2**20
    requests_per_second: int = 500
    """That begin, of all clients together."""

    def seconds(self, phase: Phase, received: int) -> float | None:
        """The longest time in a phase; None for as long as it takes."""
        if phase == "answering":
            return None
        if phase == "head":
            return self.head_seconds
        return self.write_seconds if phase != "body" else self.body_seconds + received / self.body_bytes_per_second


@dataclass(slots=True)
class RequestTurns:
    """Requests that wait to begin, one of a connection: clients take turns, and so do the connections of a client."""

    per_second: int
    _due: float = 0.0
    """Time at which the next request is due, by the loop's clock."""
    _waiting: OrderedDict[str, dict[LimitedProtocol, asyncio.Future[None]]] = field(default_factory=OrderedDict)
    """By address, the next client first."""

    async def wait(self, connection: LimitedProtocol) -> None:
        """Return when the connection's request may begin, at once where none waits and one is due."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            if self._take(loop.time()):
                return
            loop.call_at(self._due, self._begin)
        turn = loop.create_future()
        self._waiting.setdefault(connection.address, {})[connection] = turn
        await turn

    def leave(self, connection: LimitedProtocol) -> None:
        """End the wait of a connection that has ended, if it waits."""
        turns = self._waiting.get(connection.address, {})
        if (turn := turns.pop(connection, None)) is not None:
            turn.set_result(None)
            if not turns:
                del self._waiting[connection.address]

    def _take(self, now: float) -> bool:
        """Return whether a request is due, and count it."""
        self._due = max(self._due, now - REQUESTS_AT_ONCE / self.per_second)
        is_due = self._due <= now
        self._due += is_due / self.per_second
        return is_due

    def _begin(self) -> None:
        """Let those begin that are due."""
        loop = asyncio.get_running_loop()
        while self._waiting and self._take(loop.time()):
            client, turns = next(iter(self._waiting.items()))
            self._waiting.move_to_end(client)
            self.leave(next(iter(turns)))
        if self._waiting:
            loop.call_at(self._due, self._begin)


@dataclass(slots=True)
class OpenConnections:
    """All connections of one server."""

    limits: ConnectionLimits
    all: set[LimitedProtocol] = field(default_factory=set)
    of_client: dict[str, OrderedDict[LimitedProtocol, None]] = field(default_factory=dict)
    waiting: OrderedDict[LimitedProtocol, None] = field(default_factory=OrderedDict)
    """Those that wait for a request of their client, the longest wait first; `of_client` has them by address."""
    count_of_client: dict[str, int] = field(default_factory=dict)
    sweeping: asyncio.TimerHandle | None = None
    turns: RequestTurns = field(init=False)

    def __post_init__(self) -> None:
        self.turns = RequestTurns(self.limits.requests_per_second)

    def admit(self, connection: LimitedProtocol) -> bool:
        """Take a connection in, in the place of a waiting one if there is no other; False if none waits.

        That one is ended a moment later, unless too many are to be: of those that have just come none has been read.
        """
        client = connection.address
        waiting, surplus = self._crowded(client)
        if surplus >= 0 and not waiting:
            return False
        if surplus >= BACKLOG:
            self._end_longest(waiting)
        elif surplus >= 0:
            asyncio.get_running_loop().call_later(UNREAD_SECONDS, self._end_surplus, client)
        self.all.add(connection)
        self.count_of_client[client] = self.count_of_client.get(client, 0) + 1
        self.waits(connection, is_waiting=True)
        if self.sweeping is None:
            self._sweep()
        return True

    def waits(self, connection: LimitedProtocol, *, is_waiting: bool) -> None:
        """Note whether a connection waits for its client; a wait that begins is the last in the order."""
        of_client = self.of_client.setdefault(connection.address, OrderedDict())
        for table in (self.waiting, of_client):
            if is_waiting:
                table.setdefault(connection)
            else:
                table.pop(connection, None)
        if not of_client:
            del self.of_client[connection.address]

    def forget(self, connection: LimitedProtocol) -> None:
        """Drop a connection that has ended; those that were not taken in are unknown."""
        if connection not in self.all:
            return
        self.all.discard(connection)
        self.waits(connection, is_waiting=False)
        self.count_of_client[connection.address] -= 1
        if not self.count_of_client[connection.address]:
            del self.count_of_client[connection.address]

    def _crowded(self, client: str) -> tuple[OrderedDict[LimitedProtocol, None], int]:
        """(waiting connections of which one gives way to a new one, how many there are beyond the places)."""
        beyond = self.count_of_client.get(client, 0) - self.limits.per_client
        if beyond >= 0:
            return self.of_client.get(client, OrderedDict()), beyond
        return self.waiting, len(self.all) - self.limits.connections

    def _end_surplus(self, client: str) -> None:
        waiting, surplus = self._crowded(client)
        if surplus > 0:
            self._end_longest(waiting)

    def _end_longest(self, waiting: OrderedDict[LimitedProtocol, None]) -> bool:
        connection = next(iter(waiting), None)
        if connection is not None:
            connection.end()
        return connection is not None

    def _sweep(self) -> None:
        """Every second while there are connections: end those that have been in their phase for too long."""
        self.sweeping = None
        loop = asyncio.get_running_loop()
        for connection in [one for one in self.all if one.is_late(loop.time())]:
            connection.end()
        if self.all:
            self.sweeping = loop.call_later(1.0, self._sweep)


class LimitedProtocol(H11Protocol):
    """One connection."""

    def __init__(self, *arguments: Any, open_connections: OpenConnections, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._whole_app, self.app = self.app, self._app_unless_closing
        self.open_connections = open_connections
        self.address = ""
        self._phase: tuple[Phase, int] = ("head", 0)
        """The phase, and the number of the request that it belongs to."""
        self._since = self.loop.time()
        self._requests = 0
        self._content = self._frames = 0
        """Bytes of the current body, and of what came beside it."""
        self._unsent = 0
        """Bytes that were in the write buffer at the last sweep."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        transport.set_write_buffer_limits(high=WRITE_BYTES // 4)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WRITE_BYTES)
        if not self.open_connections.admit(self):
            transport.write(BUSY)
            transport.close()
            self.loop.call_later(1.0, self.end)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open_connections.forget(self)
        super().connection_lost(exc)
        self.open_connections.turns.leave(self)

    def end(self) -> None:
        """End the connection at once."""
        self.open_connections.forget(self)
        self.connections.discard(self)
        self.transport.abort()

    async def _app_unless_closing(self, scope: Any, receive: Any, send: Any) -> None:
        """Begin a request in its turn; spare the application one whose connection has ended before."""
        await self.open_connections.turns.wait(self)
        if not self.transport.is_closing():
            await self._whole_app(scope, receive, send)

    def data_received(self, data: bytes) -> None:
        place = 0
        while place < len(data) and not self.transport.is_closing():
            is_plain_body = self.conn.their_state is h11.SEND_BODY and not self._is_chunked
            end = len(data) if is_plain_body else place + READ_BYTES
            self._receive(data[place:end])
            place = end
        self._note_phase()

    def _receive(self, data: bytes) -> None:
        cycle, before = self.cycle, 0 if self.cycle is None else len(self.cycle.body)
        super().data_received(data)
        if self.cycle is not cycle:
            self._requests += 1
            before = self._content = self._frames = 0
        if self.cycle is None or self.conn.their_state is not h11.SEND_BODY:
            return
        is_read = self.conn.our_state is not h11.DONE  # the rest of a body that is answered already is passed over
        content = max(0, len(self.cycle.body) - before) if is_read else len(data)
        self._content += content
        self._frames += len(data) - content
        largest = self.open_connections.limits.largest_body_bytes
        is_mostly_frames = self._frames > self._content + LARGEST_CHUNK_FRAMES + READ_BYTES
        if is_mostly_frames or max(self._announced_chunk(), self._content - READ_BYTES) > largest:
            self.send_400_response("Invalid HTTP request received.")

    @property
    def _is_chunked(self) -> bool:
        return hasattr(getattr(self.conn, "_reader", None), "_bytes_in_chunk")

    def _announced_chunk(self) -> int:
        """Bytes that are still to come of the current chunk, which h11 reads but does not tell; 0 without chunks."""
        return getattr(getattr(self.conn, "_reader", None), "_bytes_in_chunk", 0)

    def send_400_response(self, msg: str) -> None:
        """Close, with an answer unless one has begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._note_phase()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._since = self.loop.time()

    def _note_phase(self) -> None:
        """Keep the order of those that wait for their clients."""
        if self in self.open_connections.all:
            self.open_connections.waits(self, is_waiting=self.phase() in ("head", "body"))

    def phase(self) -> Phase:
        if self.transport.is_closing():
            return "closing"
        if self.flow.write_paused:
            return "sending"
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        is_answering = self.cycle is not None and not self.cycle.response_complete
        return "answering" if is_answering else "head"

    def is_late(self, now: float) -> bool:
        """Return whether it has been in its phase for too long; called once a second."""
        phase, unsent = self.phase(), self.transport.get_write_buffer_size()
        current: tuple[Phase, int] = (phase, self._requests)
        if current != self._phase or unsent < self._unsent:
            self._phase, self._since = current, now
        self._unsent = unsent
        seconds = self.open_connections.limits.seconds(phase, self._content)
        return seconds is not None and now - self._since > seconds


def http_config(app: Any, limits: ConnectionLimits, *, grace_seconds: int) -> uvicorn.Config:
    """uvicorn's settings for a server whose connections share the limits."""
    open_connections = OpenConnections(limits)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # a warning for each write to a client who has gone

    class Protocol(LimitedProtocol):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, open_connections=open_connections, **named)

    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        log_level="error",  # warnings are about what clients send, a line for each
        backlog=BACKLOG,
        proxy_headers=False,  # a client is the address of its connection, and not what a header says
        timeout_graceful_shutdown=grace_seconds,
    )


def connections_that_fit(wanted: int) -> int:
    """As many connections as the process may have open files, whose limit is raised as far as it may be."""
    needed = wanted + BACKLOG + RESERVED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    possible = wanted if soft == resource.RLIM_INFINITY else max(16, min(wanted, soft - BACKLOG - RESERVED_FILES))
    if possible < wanted:
        logger.warning("WARNING: %d connections instead of %d: the limit of open files is %d", possible, wanted, soft)
    return possible
