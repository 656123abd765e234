"""The server beside clients that hold, fill, break or flood: an honest client is answered, and nothing piles up."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import pytest

from megaphi.generation.server.connections import REQUESTS_AT_ONCE, ConnectionLimits
from megaphi.sampling import Sampling
from tests.generation.server.fake_generator import FakeGenerator, expected_tokens
from tests.generation.server.served import HEAD, ask, served, wait_until

LIMITS = ConnectionLimits(
    connections=40, per_client=30, head_seconds=1.0, body_seconds=1.0, write_seconds=1.5, largest_body_bytes=2**20
)
RULES = Sampling(max_tokens=12, temperature=0.8, top_p=0.9, seed=11)
FIELDS = {"max_tokens": 12, "temperature": 0.8, "top_p": 0.9, "seed": 11, "return_token_ids": True}
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(FakeGenerator(), limits=LIMITS, largest_body_bytes=2**20) as (url, _):
        yield url


def connect(url: str, opening: bytes = b"", *, source: str = "127.0.0.1") -> socket.socket:
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=10, source_address=(source, 0))
    with suppress(OSError):
        connection.sendall(opening)
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError, BrokenPipeError):
        while part := connection.recv(65_536):
            received += part
    return received


def assert_answers(url: str, *, number: int = 7) -> None:
    reply = ask(f"{url}/v1/completions", {"prompt": [number], **FIELDS})
    assert reply.status == 200, reply.body
    assert reply.body["choices"][0]["token_ids"] == expected_tokens([number], RULES)


HALF = {
    "nothing": b"",
    "half a line": b"POST /v1/comple",
    "half a head": HEAD,
    "half a body": HEAD + b"Content-Length: 900000\r\n\r\n{",
    "half a chunk": CHUNKED + b"ffff\r\n{",
    "many lines": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100,
}


@pytest.mark.parametrize("opening", HALF.values(), ids=HALF)
def test_what_is_begun_and_not_ended_is_ended_by_the_server(url, opening):
    began = time.monotonic()
    with connect(url, opening) as connection:
        read_to_end(connection)
    assert 0.5 < time.monotonic() - began < 6


@pytest.mark.parametrize("opening", [HEAD, HALF["half a body"]], ids=["head", "body"])
def test_a_byte_now_and_then_does_not_keep_a_connection(url, opening):
    began = time.monotonic()
    with connect(url, opening) as connection, suppress(ConnectionResetError, BrokenPipeError):
        while time.monotonic() - began < 8:
            connection.sendall(b"A")
            time.sleep(0.2)
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("opening", HALF.values(), ids=HALF)
def test_half_open_connections_give_way(url, opening):
    """From three addresses, more than there are places."""
    with ExitStack() as stack:
        for number in range(90):
            stack.enter_context(connect(url, opening, source=f"127.0.0.{1 + number % 3}"))
        for number in range(5):
            assert_answers(url, number=number)


def test_where_nobody_waits_a_new_connection_is_sent_away():
    limits = ConnectionLimits(connections=3, per_client=3)
    body = json.dumps({"prompt": "a", "max_tokens": 400}).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with (
        served(FakeGenerator(seconds_per_step=0.01, ends=False), limits=limits) as (url, service),
        ExitStack() as stack,
    ):
        for _ in range(3):
            stack.enter_context(connect(url, request))
        assert wait_until(lambda: service.load().running == 3)
        with connect(url) as refused:
            reply = read_to_end(refused)
        assert reply.startswith(b"HTTP/1.1 503")
        assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["message"]


BROKEN = {
    "a huge chunk": CHUNKED + b"ffffffffffffffff\r\n{",
    "chunks of one byte": CHUNKED + b"1\r\n \r\n" * 20_000,
    "no chunk": CHUNKED + b"zz\r\n",
    "a long chunk line": CHUNKED + b"1;" + b"a" * 100_000,
    "a long line": b"GET /" + b"a" * 400_000,
    "many fields": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000,
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "a long length": HEAD + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n{}",
    "a huge length": HEAD + b"Content-Length: 18446744073709551615\r\n\r\n{}",
    "zeros": b"\0" * 100_000,
    "a TLS hello": bytes.fromhex("160301020001000100fc0303"),
}


@pytest.mark.parametrize("request_", BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_a_request_is_ended_at_once(url, request_):
    began = time.monotonic()
    with connect(url, request_) as connection:
        reply = read_to_end(connection)
    assert time.monotonic() - began < 0.9, "it was a time-out that ended it"
    assert reply[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 413")
    assert_answers(url)


def filled(**fields: object) -> bytes:
    return json.dumps({"prompt": "a", **fields}).encode()


NAME = "x" * 900_000
LARGE: dict[str, tuple[bytes, int]] = {
    "letters": (filled(prompt="abcdefghij" * 90_000), 400),
    "many texts of letters": (filled(prompt=["abcdefghij" * 8_000] * 11), 400),
    "a field name": (filled(**{NAME: 1}), 400),
    "a model": (filled(model=NAME), 404),
    "a bias key": (filled(logit_bias={NAME: 1}), 400),
    "biases": (filled(logit_bias={str(token): 1 for token in range(50_000)}), 400),
    "stop tokens": (filled(stop_token_ids=list(range(50_000))), 400),
    "stop texts": (filled(stop=["a" * 1_000] * 500), 400),
    "a response format": (filled(response_format={"type": NAME}), 400),
    "a large schema": (
        filled(response_format={"type": "json_schema", "json_schema": {"schema": {"title": NAME}}}),
        400,
    ),
    "an integer": (b'{"prompt": "a", "seed": ' + b"9" * 900_000 + b"}", 400),
    "a number": (b'{"prompt": "a", "temperature": ' + b"9" * 900_000 + b"}", 400),
    "a bad escape": (b'{"prompt": "' + b"\\x" * 400_000 + b'"}', 400),
    "lists": (b'{"prompt": [' + b"[]," * 300_000 + b"[]]}", 400),
    "deep": (b'{"prompt": ' + b"[" * 400_000 + b"]" * 400_000 + b"}", 400),
    "log-probabilities": (filled(n=128, max_tokens=500, logprobs=20), 400),
}


@pytest.mark.parametrize(("body", "status"), LARGE.values(), ids=LARGE)
def test_a_large_body_is_refused_fast_and_not_echoed(url, body, status):
    began = time.monotonic()
    reply = ask(f"{url}/v1/completions", body)
    assert reply.status == status
    assert len(json.dumps(reply.body)) < 2_000
    assert reply.error["message"].isprintable()
    assert time.monotonic() - began < 3
    assert_answers(url)


def test_a_body_of_many_values_is_not_parsed():
    with served(FakeGenerator()) as (url, _):
        reply = ask(f"{url}/v1/completions", b'{"prompt": [' + b"[]," * 1_200_000 + b"[]]}")
        assert (reply.status, "commas" in reply.error["message"]) == (413, True)


@pytest.mark.parametrize("depth", [*range(900, 1000, 7), 5_000])
def test_a_schema_of_any_depth_is_one_answer(url, depth):
    schema = b'{"properties":{"a":' * depth + b"{}" + b"}}" * depth
    body = (
        b'{"prompt":"a","max_tokens":1,"response_format":{"type":"json_schema","json_schema":{"schema":'
        + schema
        + b"}}}"
    )
    assert ask(f"{url}/v1/completions", body).status in (200, 400)


def test_many_messages_are_refused(url):
    talk = [{"role": "user", "content": ""}] * 20_000
    reply = ask(f"{url}/v1/chat/completions", {"messages": talk})
    assert (reply.status, reply.error["param"]) == (400, "messages")


def test_names_are_escaped(url):
    for name in ("\x1b[31m", "a\nb", "\u202eb", "\ud800", "x" * 5_000):
        error = ask(f"{url}/v1/completions", {"prompt": "a", name: 1}).error
        assert error["message"].isprintable()
        assert len(error["message"]) + len(error["param"]) < 1_500


def test_nothing_names_the_model_without_the_key():
    with served(FakeGenerator(), api_key="s3cret", model="secret-model") as (url, service):
        service.failure = None
        for path in ("/", "/health", "/metrics", "/v1/models", "/v1/models/secret-model", "/x", "/v1/completions"):
            with connect(url, b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode()) as connection:
                assert b"secret-model" not in read_to_end(connection).replace(b"/v1/models/secret-model", b"")


@contextmanager
def flood(url: str, body: dict, *, threads: int, source: str) -> Iterator[Callable[[], int]]:
    """Valid requests from another address, as many as the server takes; gives how many were answered."""
    data, ends, answered = json.dumps(body).encode(), threading.Event(), []
    request = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(data) + data

    def one() -> None:
        while not ends.is_set():
            with suppress(OSError), connect(url, request, source=source) as connection:
                answered.append(read_to_end(connection)[9:12])

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(one)
        try:
            yield lambda: answered.count(b"200")
        finally:
            ends.set()


def test_clients_take_turns_and_a_full_queue_is_shared():
    """One address queues sixteen answers at a time from twenty connections; 32 clients of another lose nothing."""
    with served(FakeGenerator(slots=4, seconds_per_step=0.002, ends=False), max_waiting=64) as (url, _):
        with flood(url, {"prompt": "a", "max_tokens": 20, "n": 16}, threads=20, source="127.0.0.2") as answered:
            time.sleep(0.5)
            with ThreadPoolExecutor(32) as pool:
                rules = Sampling(max_tokens=12, temperature=0.8, top_p=0.9, seed=11)
                replies = list(
                    pool.map(lambda number: ask(f"{url}/v1/completions", {"prompt": [number], **FIELDS}), range(96))
                )
            assert wait_until(lambda: answered() > 0)
        assert [reply.status for reply in replies] == [200] * 96
        for number, reply in enumerate(replies):
            assert reply.body["choices"][0]["token_ids"] == expected_tokens([number], rules, ends=False)


HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def test_pipelined_requests_leave_other_clients_their_turns():
    """Forty connections with 200 requests each, more than begin in six minutes."""
    limits = ConnectionLimits(requests_per_second=20)
    with served(FakeGenerator(), limits=limits) as (url, _), ExitStack() as stack:
        began = time.monotonic()
        flood = [stack.enter_context(connect(url, HEALTH * 200, source="127.0.0.2")) for _ in range(40)]
        assert wait_until(lambda: len(readable(flood)) == 40), "connections of one client take turns"
        for number in range(5):
            asked = time.monotonic()
            assert_answers(url, number=number)
            assert time.monotonic() - asked < 1
        answered = sum(connection.recv(2**20).count(b"HTTP/1.1 200") for connection in flood)
        assert 40 <= answered <= REQUESTS_AT_ONCE + 20 * (time.monotonic() - began)


def test_a_client_who_has_gone_has_no_turn():
    limits = ConnectionLimits(requests_per_second=5)
    with served(FakeGenerator(), limits=limits) as (url, _):
        for _ in range(REQUESTS_AT_ONCE + 60):
            connect(url, HEALTH).close()
        began = time.monotonic()
        assert_answers(url)
        assert time.monotonic() - began < 3


def test_an_answer_that_is_not_read_is_cut_off_and_its_memory_is_free():
    body = filled(max_tokens=15_000, n=4, logprobs=5, stream=True)
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with served(FakeGenerator(context=20_000, ends=False), limits=LIMITS) as (url, service):
        address = urlsplit(url)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((address.hostname, address.port))
            connection.sendall(request)
            assert wait_until(lambda: service.load().running + service.load().waiting == 4)
            time.sleep(4)
            assert b"[DONE]" not in read_to_end(connection)
        assert wait_until(lambda: service.load().running == service.load().waiting == 0)


def test_streams_that_nobody_reads_keep_no_newcomer_waiting():
    """As many as fill every slot and the queue, from one address, with an honest client at the same address."""
    body = filled(max_tokens=15_000, n=4, logprobs=5, stream=True)
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    generator = FakeGenerator(slots=4, context=20_000, ends=False, seconds_per_step=0.001)
    with served(generator, max_waiting=32) as (url, service), ExitStack() as stack:
        held = [stack.enter_context(connect(url, request))]
        assert wait_until(lambda: generator.steps > 0)  # four have left the queue, or the last would be refused
        held += [stack.enter_context(connect(url, request)) for _ in range(8)]
        assert wait_until(lambda: service.load().running + service.load().waiting == 36), service.load()
        for number in range(4):
            began = time.monotonic()
            reply = ask(f"{url}/v1/completions", {"prompt": [number], **FIELDS})
            assert reply.body["choices"][0]["token_ids"] == expected_tokens([number], RULES, ends=False)
            assert time.monotonic() - began < 2
        assert generator.steps * 4 < 36 * 1_000, "it was generated ahead"
        assert len(held) == 9


def test_a_long_answer_is_the_same_beside_many_newcomers():
    rules = Sampling(max_tokens=600, temperature=0.8, top_p=0.9, seed=11)
    long = {"prompt": [5], **FIELDS, "max_tokens": 600}
    generator = FakeGenerator(slots=2, context=20_000, ends=False, seconds_per_step=0.001)
    with served(generator) as (url, _), ThreadPoolExecutor(40) as pool:
        answers = [pool.submit(ask, f"{url}/v1/completions", long) for _ in range(2)]
        assert wait_until(lambda: generator.steps > 40)
        began = time.monotonic()
        replies = list(pool.map(lambda number: ask(f"{url}/v1/completions", {"prompt": [number], **FIELDS}), range(32)))
        assert time.monotonic() - began < 6
        assert not any(answer.done() for answer in answers)
        for number, reply in enumerate(replies):
            assert reply.body["choices"][0]["token_ids"] == expected_tokens([number], RULES, ends=False)
        for answer in answers:
            assert answer.result().body["choices"][0]["token_ids"] == expected_tokens([5], rules, ends=False)
        assert generator.suspensions


def readable(connections: list[socket.socket]) -> list[socket.socket]:
    """Those that something has come on; also of descriptors above 1,024, which select() does not take."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll(0)}
    return [connection for connection in connections if connection.fileno() in ready]


def test_large_bodies_of_one_client_leave_room_for_another():
    """Eight bodies that are nearly whole hold all that one address may; another's large body is taken."""
    body = filled(prompt="word " * 15_000)
    nearly = HEAD + b"Content-Length: 1000000\r\n\r\n" + b" " * 950_000
    with served(FakeGenerator(context=20_000), largest_body_bytes=2**20) as (own, _), ExitStack() as stack:
        held = [stack.enter_context(connect(own, nearly, source="127.0.0.2")) for _ in range(8)]
        refused: set[socket.socket] = set()
        assert wait_until(lambda: refused.update(readable(held)) or len(refused) == 4)
        assert all(connection.recv(20).startswith(b"HTTP/1.1 429") for connection in refused)
        assert ask(f"{own}/v1/completions", body).status == 200
