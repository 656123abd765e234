"""The server over a raw socket: whatever is sent, it is answered or not, but never with 500, and others are as before.

A server runs in the worker itself, on loopback, around a generator that makes each token of what it may depend on.
After every input a valid request gets the tokens that it always gets.
"""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack, suppress
from functools import cache

from tests.fuzz.structured import json_value
from tests.fuzz.target import Mutator, Target

VALID = {"prompt": [5, 6, 7], "max_tokens": 6, "temperature": 0.8, "seed": 3, "return_token_ids": True}
BODIES = (
    VALID,
    {"prompt": "once upon", "n": 2, "logprobs": 2, "echo": True, "max_tokens": 3, "stop": ["a", "b"], "stream": True},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "max_tokens": 3, "top_logprobs": 1,
     "logprobs": True, "logit_bias": {"7": -100, "9": 1e-320},
     "stream_options": {"include_usage": True}, "stream": True},
    {"prompt": ["a", "b"], "temperature": 1e-320, "top_p": 1e-320, "min_p": 0.0, "repetition_penalty": 1e-320,
     "top_k": 3, "presence_penalty": -2, "frequency_penalty": 2, "stop_token_ids": [3], "max_tokens": 3},
    {"prompt": "a", "max_tokens": 3, "response_format": {"type": "json_schema", "json_schema": {
        "name": "x", "schema": {"type": "object", "properties": {"a": {"pattern": "^(a|b)*$"}}}}}},
)  # fmt: skip
NO_ANSWER_SECONDS = 0.3
TOKENS = (
    b"\r\n\r\n", b"\r\n", b"\0", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 18446744073709551615\r\n",
    b"ffffffffffffffff\r\n", b"0\r\n\r\n", b"Expect: 100-continue\r\n", b"Content-Length: 1\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.0",
    b"OPTIONS *", b"%00", b"[" * 2_000,
)  # fmt: skip


def framed(body: bytes, path: str = "/v1/completions", *fields: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *fields]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


def request_of(body: dict[str, object]) -> bytes:
    return framed(json.dumps(body).encode(), "/v1/chat/completions" if "messages" in body else "/v1/completions")


def in_chunks(body: bytes) -> bytes:
    head = framed(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:])) + b"0\r\n\r\n"


def in_body(mutate: Mutator) -> Mutator:
    """Damage the body alone, and frame it again."""

    def damaged(content, seeds, chance):
        head, _, body = content.partition(b"\r\n\r\n")
        path = head.split(b" ")[1].decode("latin-1") if b" " in head else "/v1/completions"
        return framed(mutate(body, [seed.partition(b"\r\n\r\n")[2] for seed in seeds], chance), path)

    return damaged


@cache
def address() -> tuple[str, int]:
    """Address of this process's server, which runs as long as it."""
    from megaphi.generation.server.connections import ConnectionLimits
    from tests.generation.server.fake_generator import FakeGenerator
    from tests.generation.server.served import served

    stack = ExitStack()
    limits = ConnectionLimits(connections=64, head_seconds=2.0, body_seconds=2.0, write_seconds=2.0)
    url, _ = stack.enter_context(served(FakeGenerator(), limits=limits))
    address.stack = stack  # type: ignore[attr-defined]
    return "127.0.0.1", int(url.rpartition(":")[2])


def answer(content: bytes, *, seconds: float) -> bytes:
    """The bytes that come back until the server closes, or is silent."""
    received = b""
    with suppress(OSError), socket.create_connection(address(), timeout=seconds) as connection:
        connection.sendall(content)
        while part := connection.recv(65_536):
            received += part
    return received


def ask_server(content: bytes) -> str | None:
    """One input, and a valid request after it."""
    from megaphi.sampling import Sampling
    from tests.generation.server.fake_generator import expected_tokens

    received = answer(content, seconds=NO_ANSWER_SECONDS)
    status = received[9:12].decode("latin-1")
    assert b" 500 " not in received[:40], received[:2_000]
    assert len(status) in (0, 3), received[:100]
    valid = request_of(VALID).replace(b"Host: x", b"Host: x\r\nConnection: close")
    found = json.loads(answer(valid, seconds=20).partition(b"\r\n\r\n")[2])
    rules = Sampling(max_tokens=6, temperature=0.8, seed=3)
    assert found["choices"][0]["token_ids"] == expected_tokens([5, 6, 7], rules)
    return None if status == "200" else f"status {status or 'none'}"


def hostile() -> list[bytes]:
    return [
        framed(json.dumps({"prompt": "abcdefghij" * 700_000}).encode()),
        framed(json.dumps({"prompt": "a", "x" * 7_000_000: 1}).encode()),
        framed(b'{"prompt": [' + b"[]," * 2_600_000 + b"[]]}"),
        in_chunks(b"")[:-5] + b"1\r\n \r\n" * 100_000,
        in_chunks(b"")[:-5] + b"ffffffffffffffff\r\n{",
        request_of({"prompt": "a", "n": 128, "max_tokens": 500, "logprobs": 20}),
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 5_000,
    ]


TARGETS = (
    Target(
        name="http server",
        run=ask_server,
        seeds=lambda: [
            *map(request_of, BODIES),
            in_chunks(json.dumps(VALID).encode()),
            b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
        ],
        crafted=hostile,
        mutators=(in_body(json_value), in_body(json_value)),
        tokens=TOKENS,
        seconds=30.0,  # the first input waits for the tokenizer
        short_inputs=40,
    ),
)
