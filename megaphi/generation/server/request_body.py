"""Bodies of requests: read up to limits in bytes, and planned on threads where large ones do not delay small ones.

All bodies that are being read, wait or are planned share a budget of bytes, of which one client has half at most. A
small body, as nearly all are, needs none of it, and has threads of its own; large ones are planned one after the other.
Large bodies are read no faster than `LARGE_BYTES_PER_SECOND` together. While a body is read its punctuation is counted:
that bounds how many values it can hold.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from megaphi.generation.server.openai_fields import ApiError

SMALL_BYTES = 2**16
"""Largest body that is planned at once."""
BUDGET_BODIES = 8
"""The budget of large bodies, in bodies of the largest size."""
LARGE_BYTES_PER_SECOND = 2**24
SMALL_THREADS = 4
MOST_VALUES = 2**20
"""JSON values in one body; token ids are most of them."""
Planned = TypeVar("Planned")


class BodyReader:
    """Reads and plans the bodies of one server."""

    def __init__(self, *, largest_bytes: int) -> None:
        self.largest_bytes = largest_bytes
        self._held: Counter[str] = Counter()
        """Bytes of large bodies that are read or planned, by client."""
        self._large_bytes_read_by = 0.0
        """Time at which the bytes of large bodies that have been read are due, by the loop's clock."""
        self._small = ThreadPoolExecutor(SMALL_THREADS, thread_name_prefix="plan")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="plan-large")

    async def plan(self, request: Request, make: Callable[[bytes], Planned]) -> Planned:
        """Return `make` of the request's body, called on a thread. Raises ApiError for a body that is not taken."""
        async with self._budget(request) as take:
            body = await self._read(request, take)
            pool = self._small if len(body) <= SMALL_BYTES else self._large
            return await asyncio.get_running_loop().run_in_executor(pool, lambda: make(body))

    async def slowly(self, work: Callable[[], Planned]) -> Planned:
        """Run what can take seconds where large bodies are planned."""
        return await asyncio.get_running_loop().run_in_executor(self._large, work)

    def close(self) -> None:
        for pool in (self._small, self._large):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _read(self, request: Request, take: Callable[[int], None]) -> bytes:
        """Read a body; one that is too large is refused by its header, or while it is read."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "the body must be JSON: send the header Content-Type: application/json")
        too_large = ApiError(413, f"the body is larger than {self.largest_bytes} bytes")
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > self.largest_bytes:
            raise too_large
        body, values = bytearray(), 0
        try:
            async for chunk in request.stream():
                body += chunk
                values += sum(map(chunk.count, (b",", b"[", b"{")))
                if len(body) > self.largest_bytes:
                    raise too_large
                if values > MOST_VALUES:
                    message = f"the body has more than {MOST_VALUES} commas and brackets: send less at a time"
                    raise ApiError(413, message)
                take(len(body))
                if len(body) > SMALL_BYTES:
                    await self._keep_pace(len(chunk))
        except ClientDisconnect:
            raise client_gone() from None
        return bytes(body)

    async def _keep_pace(self, length: int) -> None:
        """Wait until bytes of a large body that have come are due."""
        now = asyncio.get_running_loop().time()
        self._large_bytes_read_by = max(now, self._large_bytes_read_by) + length / LARGE_BYTES_PER_SECOND
        await asyncio.sleep(self._large_bytes_read_by - now)

    @asynccontextmanager
    async def _budget(self, request: Request) -> AsyncIterator[Callable[[int], None]]:
        """Give a function that sets aside bytes for the body of a request as it grows. That raises ApiError."""
        client, held = request.client.host if request.client else "", 0

        def take(length: int) -> None:
            nonlocal held
            if length <= SMALL_BYTES:
                return
            budget = BUDGET_BODIES * self.largest_bytes
            more = length - held
            if self._held.total() + more > budget or self._held[client] + more > budget // 2:
                raise ApiError(429, "too many large bodies at a time: send this one later", code="too_many_requests")
            self._held[client] += more
            held = length

        try:
            yield take
        finally:
            self._held[client] -= held
            if not self._held[client]:
                del self._held[client]


def client_gone() -> ApiError:
    """The response to a client that has disconnected; its status is nginx's, for the log."""
    return ApiError(499, "the client has gone")
