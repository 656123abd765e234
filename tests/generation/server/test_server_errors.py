"""Requests that the server refuses: wrong fields by name, broken and huge bodies, strangers. Defects keep details."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import openai
import pytest

from tests.generation.server.fake_generator import FakeGenerator
from tests.generation.server.served import HEAD, ask, served


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(FakeGenerator()) as (url, _):
        yield url


CHAT = {"messages": [{"role": "user", "content": "hi"}]}
WRONG_FIELDS = [
    ({"prompt": "a", "temprature": 1}, "temprature", "unknown field 'temprature'. Did you mean 'temperature'?"),
    ({"prompt": "a", "messages": []}, "messages", "unknown field 'messages'"),
    ({**CHAT, "tools": [{}]}, "tools", "not supported"),
    ({"prompt": "a", "temperature": -1}, "temperature", "between 0 and 100"),
    ({"prompt": "a", "temperature": "hot"}, "temperature", "must be a number, not a text"),
    ({"prompt": "a", "temperature": 10**400}, "temperature", "float"),
    ({"prompt": "a", "top_p": 0}, "top_p", "above 0"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens", "must be at least 1"),
    ({"prompt": "a", "max_tokens": True}, "max_tokens", "must be an integer, not a boolean"),
    ({"prompt": "a", "n": 1000}, "n", "must be at most 128"),
    ({"prompt": "a", "seed": -1}, "seed", "must be at least 0"),
    ({"prompt": "a", "stop": ""}, "stop", "1 to 1000 characters"),
    ({"prompt": "a", "stop": [1]}, "stop", "a text or a list of texts"),
    ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options", "needs stream: true"),
    ({"prompt": "a", "stream": 1}, "stream", "true or false"),
    ({"prompt": "a", "logprobs": 50}, "logprobs", "must be at most 20"),
    ({**CHAT, "top_logprobs": 2}, "top_logprobs", "needs logprobs: true"),
    ({}, "prompt", "must be a text"),
    ({"prompt": []}, "prompt", "not empty"),
    ({"prompt": ""}, "prompt", "is empty"),
    ({"prompt": ["a", 5]}, "prompt", "must be a text"),
    ({"prompt": [5, 100_352]}, "prompt", "token id 100352: ids are 0 to 100351"),
    ({"prompt": [5, -1]}, "prompt", "token id -1"),
    ({"prompt": [10**30]}, "prompt", "token id"),
    ({"prompt": [5] * 512}, "prompt", "has 512 tokens, and the model's context of 512"),
    ({"prompt": ["a"] * 300}, "prompt", "300 answers at once"),
    ({"messages": []}, "messages", "at least one message"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "message 1: unknown role 'tool'"),
    ({"messages": [{"role": "user"}]}, "messages", "message 1 has no 'content'"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "only"),
    ({"messages": "hi"}, "messages", "list of messages"),
]


@pytest.mark.parametrize(("body", "field", "message"), WRONG_FIELDS, ids=[str(row[1]) for row in WRONG_FIELDS])
def test_a_wrong_field_is_named(url, body, field, message):
    kind = "chat/completions" if "messages" in body and "prompt" not in body else "completions"
    reply = ask(f"{url}/v1/{kind}", body)
    assert reply.status == 400
    assert reply.error["param"] == field
    assert message in reply.error["message"]
    assert reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"prompt": "\xff"}',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda body: body[:20].decode(errors="replace"),
)
def test_a_body_that_is_no_json_is_one_error(url, body):
    reply = ask(f"{url}/v1/completions", body)
    assert reply.status == 400
    assert reply.error["message"]


def test_lone_surrogates_do_no_harm(url):
    assert ask(f"{url}/v1/completions", b'{"prompt": "\\ud800", "max_tokens": 2}').status == 200
    assert ask(f"{url}/v1/completions", b'{"prompt": "a", "\\ud800": 2}').status == 400
    assert ask(f"{url}/v1/completions", b'{"prompt": "a", "model": "\\ud800"}').status == 404


def test_other_statuses(url):
    assert ask(f"{url}/v1/completion").status == 404
    assert "Did you mean '/v1/completions'?" in ask(f"{url}/v1/completion").error["message"]
    assert ask(f"{url}/v1/completions").status == 405
    reply = ask(f"{url}/v1/completions", {"prompt": "a", "model": "huge"})
    assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
    assert ask(f"{url}/v1/completions", {"prompt": "a"}, Content_Type="text/plain").status == 415


def test_the_key_is_asked_for():
    with served(FakeGenerator(), api_key="s3cret") as (url, _):
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer é"},
            {"Authorization": "s3cret"},
        ):
            reply = ask(f"{url}/v1/completions", {"prompt": "a"}, **headers)
            assert reply.status == 401
            assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert ask(f"{url}/v1/models").status == 401
        assert ask(f"{url}/health").status == 200
        with openai.OpenAI(base_url=f"{url}/v1", api_key="s3cret") as client:
            assert client.completions.create(model="tiny", prompt="a").choices


def test_a_foreign_name_for_this_machine_is_not_answered():
    with served(FakeGenerator(), hosts=frozenset({"localhost", "127.0.0.1", "::1"})) as (url, _):
        for host, status in (
            ("LocalHost:80", 200),
            ("127.0.0.1", 200),
            ("[::1]:8000", 200),
            ("evil.example:8000", 403),
            ("127.0.0.1.evil.example", 403),
            ("[", 403),
        ):
            assert ask(f"{url}/v1/completions", {"prompt": "a"}, Host=host).status == status, host
            assert ask(f"{url}/v1/models", Host=host).status == status, host


def exchange(url: str, request: bytes) -> bytes:
    """Send raw bytes and read until the server closes, or breaks off because there is more that it does not want."""
    address = urlsplit(url)
    received = b""
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(request)
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                received += part
    return received


def test_a_huge_body_is_refused_before_it_is_sent(url):
    reply = exchange(url, HEAD + b"Content-Length: 1000000000\r\n\r\n{")
    assert reply.startswith(b"HTTP/1.1 413")
    assert b'"message":"the body is larger than 8388608 bytes"' in reply


def test_a_huge_body_in_chunks_is_refused_before_it_is_read_whole():
    with served(FakeGenerator(), largest_body_bytes=100_000) as (url, _):
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        reply = exchange(url, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2)
        assert reply.startswith(b"HTTP/1.1 413")


def test_a_defect_is_an_error_object_without_details(monkeypatch, caplog):
    with served(FakeGenerator()) as (url, service):
        monkeypatch.setattr(service, "submit", lambda requests: {}["a secret"])
        reply = ask(f"{url}/v1/completions", {"prompt": "a"})
        assert reply.status == 500
        assert reply.error["type"] == "server_error"
        assert "secret" not in str(reply.body)
