"""Requests of unusual form, valid or not: one answer each, an honest client beside them, and nothing left behind."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest

from megaphi.generation.server.connections import ConnectionLimits
from megaphi.generation.workers import GenerationService
from tests.generation.server.fake_generator import FakeGenerator
from tests.generation.server.served import HEAD, served, wait_until
from tests.generation.server.test_bad_clients import assert_answers, connect, filled, read_to_end

CLOSE = b"Connection: close\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, GenerationService]]:
    limits = ConnectionLimits(head_seconds=1.0, body_seconds=1.0, write_seconds=1.5)
    with served(FakeGenerator(context=16_384), limits=limits) as (url, service):
        yield url, service


def post(body: bytes, fields: bytes = CLOSE) -> bytes:
    return HEAD + fields + b"Content-Length: %d\r\n\r\n" % len(body) + body


STRANGE: dict[str, tuple[bytes, int]] = {
    "HTTP/1.0": (post(filled(), b"").replace(b"HTTP/1.1", b"HTTP/1.0"), 200),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "another's address": (b"GET http://evil.example/health HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n", 404),
    "CONNECT": (b"CONNECT evil.example:80 HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n", 404),
    "TRACE": (b"TRACE / HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n", 405),
    "an upgrade": (GET + b"Connection: close, upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
    "escapes": (b"GET /%ff%00%zz%c0%af..%2f HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n", 404),
    "a long path": (b"GET /v1/" + b"completion" * 1_500 + b" HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n", 404),
    "many queries": (b"GET /health?" + b"a&" * 7_000 + b" HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n", 200),
    "many fields": (GET + b"A: b\r\n" * 2_000 + CLOSE + b"\r\n", 200),
    "overlong UTF-8": (post(b'{"prompt": "\xc0\xaf\xed\xa0\x80"}'), 400),
    "keys twice": (post(b'{"prompt": "a", "max_tokens": 9999999999, "max_tokens": 2}'), 200),
    "no number": (post(b'{"prompt": "a", "temperature": 1e999}'), 400),
    "5,000 digits": (post(b'{"prompt": "a", "seed": ' + b"9" * 5_000 + b"}"), 400),
    "compressed": (post(gzip.compress(b" " * 50_000_000), CLOSE + b"Content-Encoding: gzip\r\n"), 400),
    "a form": (post(b"x").replace(b"application/json", b"multipart/form-data; boundary=a"), 415),
    "tools": (post(json.dumps({"prompt": "a", "tools": [{"type": "function"}] * 50_000}).encode()), 400),
    "prompts": (post(filled(prompt=["a"] * 60_000)), 400),
    "a costly schema": (
        post(
            filled(
                response_format={
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "object", "properties": {"a": {"multipleOf": 1_000_003}}}},
                }
            )
        ),
        400,
    ),
}


@pytest.mark.parametrize(("request_", "status"), STRANGE.values(), ids=STRANGE)
def test_a_strange_request_has_one_answer(server, request_, status):
    began = time.monotonic()
    with connect(server[0], request_) as connection:
        reply = read_to_end(connection)
    assert reply.startswith(b"HTTP/1.1 %d" % status), reply[:200]
    assert reply.count(b"HTTP/1.1 ") == 1
    assert time.monotonic() - began < 3
    assert_answers(server[0])


def test_a_body_that_is_asked_for_and_does_not_come_is_not_awaited(server):
    began = time.monotonic()
    with connect(server[0], HEAD + b"Expect: 100-continue\r\nContent-Length: 50\r\n\r\n") as connection:
        assert read_to_end(connection) in (b"", b"HTTP/1.1 100 Continue\r\n\r\n")
    assert 0.5 < time.monotonic() - began < 6


def test_requests_in_one_piece_are_answered_in_order(server):
    with connect(server[0], post(filled(max_tokens=1), b"") * 20 + GET + CLOSE + b"\r\n") as connection:
        assert read_to_end(connection).count(b"HTTP/1.1 200") == 21


def test_nothing_is_left_of_clients_who_come_and_go(server):
    """Streams opened and left at once, during prefill and after a byte; idle connections; unread pipelines."""
    url, service = server
    stream = post(filled(stream=True, max_tokens=16_000, ignore_eos=True))
    threads = threading.active_count()

    def visit(count: int) -> None:
        for number in range(count):
            with suppress(OSError), connect(url, stream) as connection:
                if number % 2:
                    connection.recv(1)

    visit(100)
    memory = psutil.Process().memory_info().rss
    visit(200)
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connect(url))
        for _ in range(20):
            stack.enter_context(connect(url, (GET + b"\r\n") * 500))
        assert_answers(url)
    assert wait_until(lambda: service.load().running == service.load().waiting == 0)
    assert_answers(url)
    assert threading.active_count() <= threads + 4  # those that plan small bodies
    assert psutil.Process().memory_info().rss - memory < 60e6
