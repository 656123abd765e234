"""A real uvicorn on loopback, in a thread, around a generator of the test's."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import uvicorn
from fastapi import FastAPI

from megaphi.cli.engine_options import Opened
from megaphi.cli.serve import bind
from megaphi.generation.decoding.interface import Generator
from megaphi.generation.decoding.json_constraint import Constraints
from megaphi.generation.server.app import create_app
from megaphi.generation.server.connections import ConnectionLimits, http_config
from megaphi.generation.server.handlers import Serving
from megaphi.generation.workers import GenerationService
from megaphi.tokenizer.phi4 import Phi4Tokenizer, load_tokenizer

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
"""Head of a request over a bare socket."""


USUAL = ConnectionLimits()


@cache
def tokenizer() -> Phi4Tokenizer:
    return load_tokenizer()


@contextmanager
def serve_app(app: FastAPI, *, limits: ConnectionLimits = USUAL) -> Iterator[str]:
    """Run `app` while the block runs; gives its address."""
    with serve_at("127.0.0.1", app, limits=limits) as server:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


@contextmanager
def serve_at(host: str, app: FastAPI, *, limits: ConnectionLimits = USUAL) -> Iterator[uvicorn.Server]:
    """Run `app` behind a socket of `megaphi serve`."""
    server = uvicorn.Server(http_config(app, limits, grace_seconds=2))
    with bind(host, 0) as bound:
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield server
        finally:
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


@cache
def constraints() -> Constraints:
    return Constraints(tokenizer())


def opened(generator: Generator) -> Opened:
    """Stand-in for a model opened by the command line."""
    return Opened([generator], tokenizer(), constraints())


def app_of(service: GenerationService, **settings: Any) -> FastAPI:
    """Our own application."""
    serving = Serving(
        service=service, tokenizer=tokenizer(), constraints=constraints(), **{"model": "tiny", **settings}
    )
    return create_app(serving)


@contextmanager
def served(
    generator: Generator, *, max_waiting: int = 256, limits: ConnectionLimits = USUAL, **settings: Any
) -> Iterator[tuple[str, GenerationService]]:
    """Our own server; gives its address and its service."""
    service = GenerationService(generator, max_waiting=max_waiting)
    with serve_app(app_of(service, **settings), limits=limits) as url:
        yield url, service


@dataclass(frozen=True)
class Reply:
    """Status, headers and parsed body."""

    status: int
    headers: Any
    body: Any

    @property
    def error(self) -> dict[str, Any]:
        return self.body["error"]


def ask(url: str, body: Any = None, **headers: str) -> Reply:
    """GET, or POST of `body` (bytes as they are, anything else as JSON)."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, given), timeout=30) as response:
            return Reply(response.status, response.headers, json.loads(response.read()))
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.headers, json.loads(error.read()))


def wait_until(condition: Any, *, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())
