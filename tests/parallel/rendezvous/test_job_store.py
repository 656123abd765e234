"""Connecting to the job's store, and what is said while nobody answers."""

from __future__ import annotations

import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from megaphi.errors import InputError
from megaphi.log import logger
from megaphi.parallel.launcher import free_port
from megaphi.parallel.rendezvous import job_store
from megaphi.parallel.rendezvous.job_store import open_store
from megaphi.parallel.rendezvous.place import Place


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Messages logged by the waiting ranks, every 0.2 s."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    monkeypatch.setattr(job_store, "SAY_EVERY_SECONDS", 0.2)
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    return lines


def places(size: int, **fields: object) -> list[Place]:
    port = free_port()
    common = {"launcher": "torchrun", "world_size": size, "local_world_size": 1, "local_rank": 0, **fields}
    return [Place(rank=rank, address="127.0.0.1", port=port, **common) for rank in range(size)]  # pyright: ignore


def outcome(place: Place, *, seconds: float) -> Any:
    try:
        return open_store(place, start_seconds=seconds, operation_seconds=60)
    except Exception as error:
        return error


def test_two_connections_to_one_store(said: list[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        (first, _), (_, second) = pool.map(lambda place: outcome(place, seconds=30), places(2))
    first.set("key", "value")
    assert second.get("key") == "value"


def test_nobody_listens(said: list[str]) -> None:
    error = outcome(places(2)[1], seconds=0.5)
    assert isinstance(error, InputError)
    assert "rank 0 at 127.0.0.1:" in str(error)
    assert "check MASTER_ADDR and MASTER_PORT" in str(error)
    assert "Connection refused" in said[0]


def test_a_name_that_nobody_has(said: list[str]) -> None:
    error = outcome(replace(places(2)[1], address="no-such-host.invalid"), seconds=0.5)
    assert isinstance(error, InputError)
    assert "no-such-host.invalid" in str(error)
    assert "check MASTER_ADDR" in str(error)


def test_another_program_listens_and_says_nothing(said: list[str]) -> None:
    """A connection is made, and no word comes: torch's client waits for ever."""
    place = places(2)[1]
    with socket.create_server(("127.0.0.1", place.port or 0)):
        error = outcome(place, seconds=0.5)
    assert isinstance(error, InputError)
    assert "something listens there but does not answer" in str(error)
