"""The server over real sockets: the official client, errors, floods, abrupt ends, and never another one's answer."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import openai
import psutil
import pytest

from megaphi.conversation import Conversation, Message
from megaphi.generation.text import render_prompt
from megaphi.generation.workers import GenerationService
from megaphi.sampling import Sampling
from tests.generation.server.fake_generator import FakeGenerator, expected_tokens, log_probability
from tests.generation.server.served import HEAD, app_of, ask, serve_at, served, tokenizer, wait_until

RULES = Sampling(max_tokens=12, temperature=0.8, top_p=0.9, seed=11)
FIELDS = {"max_tokens": 12, "temperature": 0.8, "top_p": 0.9, "seed": 11}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(FakeGenerator(slots=8)) as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(url) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def expected(prompt, *, sample: int = 0, rules: Sampling = RULES) -> list[int]:
    return expected_tokens(render_prompt(prompt, tokenizer()), rules, sample=sample)


def said(*texts: str) -> Conversation:
    return Conversation(tuple(Message("assistant" if place % 2 else "user", text) for place, text in enumerate(texts)))


def test_the_official_client_completes(client):
    answer = client.completions.create(model="tiny", prompt="once upon", n=3, **FIELDS)
    assert [choice.text for choice in answer.choices] == [
        tokenizer().decode(expected("once upon", sample=sample)) for sample in range(3)
    ]
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 3
    assert answer.usage.prompt_tokens == len(tokenizer().encode("once upon"))
    assert answer.usage.completion_tokens == 36


def test_the_official_client_chats_in_a_stream_and_at_once(client):
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "?"},
    ]
    right = tokenizer().decode(expected(said("hi", "ho", "?")))
    fields = {"model": "tiny", "messages": messages, **FIELDS}
    assert client.chat.completions.create(**fields).choices[0].message.content == right
    chunks = list(client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == right
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 12


@pytest.mark.parametrize("prompt", ["text", ["one", "two"], [5, 7, 9], [[5], [7, 9]]], ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_prompts_of_all_four_kinds_with_token_ids(url, client, prompt, stream):
    extra = {"return_token_ids": True}
    answer = client.completions.create(model="tiny", prompt=prompt, n=2, stream=stream, extra_body=extra, **FIELDS)
    prompts = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    right = [(one, sample) for one in prompts for sample in range(2)]
    text, ids, prompt_ids = ([type(new)() for _ in right] for new in ("", [], []))
    for part in answer if stream else [answer]:
        for choice in part.choices:
            text[choice.index] += choice.text
            ids[choice.index] += choice.token_ids
            prompt_ids[choice.index] += getattr(choice, "prompt_token_ids", [])
    assert ids == [expected(one, sample=sample) for one, sample in right]
    assert text == [tokenizer().decode(one) for one in ids]
    assert prompt_ids == [list(render_prompt(one, tokenizer())) for one, _ in right]


@pytest.mark.parametrize("tokens_per_step", [1, 9])
def test_a_stop_text_ends_the_answer_and_frees_the_engine(tokens_per_step):
    alphabet = tokenizer().encode(" one two three four five")
    generator = FakeGenerator(alphabet=alphabet, tokens_per_step=tokens_per_step)
    prompt, rules = "count", Sampling(max_tokens=400, seed=11, temperature=0.8, top_p=0.9)
    whole = tokenizer().decode(expected_tokens(tokenizer().encode(prompt), rules, alphabet=generator.alphabet))
    stop = whole[20:24]
    with served(generator) as (url, service):
        fields = {"prompt": prompt, **FIELDS, "max_tokens": 400, "stop": ["not there", stop]}
        choice = ask(f"{url}/v1/completions", fields).body["choices"][0]
        assert choice["text"] == whole[: whole.index(stop)]
        assert choice["finish_reason"] == "stop"
        assert wait_until(lambda: generator.is_idle)
        assert len(generator.cancelled) == 1
        assert service.load().running == 0


def test_log_probabilities_of_completions_and_chats(client):
    completion = client.completions.create(model="tiny", prompt="p", logprobs=2, **FIELDS).choices[0]
    tokens = expected("p")
    columns = completion.logprobs
    assert columns.tokens == [tokenizer().decode([token]) for token in tokens]
    assert columns.token_logprobs == [log_probability(token) for token in tokens]
    assert all(1 <= len(top) <= 2 for top in columns.top_logprobs)
    assert columns.text_offset[0] == 0
    assert columns.text_offset == sorted(columns.text_offset)
    chat = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "p"}], logprobs=True, top_logprobs=3, **FIELDS
    )
    entries = chat.choices[0].logprobs.content
    tokens = expected(said("p"))
    assert b"".join(bytes(entry.bytes) for entry in entries) == tokenizer().decode_bytes(tokens)
    assert [len(entry.top_logprobs) for entry in entries] == [3] * len(tokens)
    assert [entry.logprob for entry in entries] == [log_probability(token) for token in tokens]


def test_streamed_log_probabilities_join_to_those_of_the_whole(url, client):
    fields = {"model": "tiny", "prompt": "p", "logprobs": 1, **FIELDS}
    whole = client.completions.create(**fields).choices[0].logprobs
    parts = [chunk.choices[0].logprobs for chunk in client.completions.create(**fields, stream=True)]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [value for part in parts for value in getattr(part, name)] == getattr(whole, name)


def test_tokens_can_be_named_by_their_ids(url):
    body = {"prompt": "p", "logprobs": 2, "return_tokens_as_token_ids": True, **FIELDS}
    columns = ask(f"{url}/v1/completions", body).body["choices"][0]["logprobs"]
    assert columns["tokens"] == [f"token_id:{token}" for token in expected("p")]
    assert [list(top) for top in columns["top_logprobs"]] == [
        [f"token_id:{token}", f"token_id:{token + 1}"] for token in expected("p")
    ]


def has_ipv6_loopback() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_connections_do_not_wait_for_delayed_acknowledgements(host):
    """TCP_NODELAY on the accepted socket of every family: without it each answer takes 40 ms more."""
    if host == "::1" and not has_ipv6_loopback():
        pytest.skip("this machine has no IPv6 loopback")
    with serve_at(host, app_of(GenerationService(FakeGenerator()))) as server:
        address = server.servers[0].sockets[0].getsockname()[:2]
        with socket.create_connection(address) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            (protocol,) = server.server_state.connections
            accepted = protocol.transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_models_and_health(client, url):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="there is no model 'huge'"):
        client.models.retrieve("huge")
    assert ask(f"{url}/health").body == {"status": "ok", "running": 0, "waiting": 0}


def test_fields_that_ask_for_nothing_are_taken(url):
    body = {"prompt": "a", "echo": False, "suffix": None, "best_of": 1, "user": "me", "logit_bias": {}, **FIELDS}
    assert ask(f"{url}/v1/completions", body).status == 200
    parts = [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]
    answer = ask(f"{url}/v1/chat/completions", {"messages": parts, "tools": [], **FIELDS}).body
    assert answer["choices"][0]["message"]["content"] == tokenizer().decode(expected(said("hi")))


def test_an_answer_is_cut_at_the_context(url):
    """The generator refuses a request for more, and says what the right answer is."""
    fields = FIELDS | {"prompt": [5] * 500, "max_tokens": 5000, "return_token_ids": True}
    (choice,) = ask(f"{url}/v1/completions", fields).body["choices"]
    assert choice["token_ids"] == expected_tokens([5] * 500, RULES)
    assert len(choice["token_ids"]) == 512 - 500
    assert choice["finish_reason"] == "length"


def test_the_seed_is_drawn_when_none_is_given(url):
    body = {"prompt": "a", "max_tokens": 8}
    texts = {ask(f"{url}/v1/completions", body).body["choices"][0]["text"] for _ in range(5)}
    assert len(texts) == 5


def test_too_many_waiting_requests_are_sent_away():
    with served(FakeGenerator(slots=1, seconds_per_step=0.05), max_waiting=4) as (url, service):
        with ThreadPoolExecutor(12) as pool:
            replies = list(
                pool.map(lambda number: ask(f"{url}/v1/completions", {"prompt": [number], **FIELDS}), range(12))
            )
        statuses = [reply.status for reply in replies]
        assert set(statuses) == {200, 429}
        refused = replies[statuses.index(429)]
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.error["type"] == "rate_limit_error"
        assert service.load().waiting == 0


def test_a_failing_engine_is_an_error_for_all_and_health_says_so():
    generator = FakeGenerator(seconds_per_step=0.02, ends=False)
    body = {"prompt": "a", "max_tokens": 400}
    with served(generator) as (url, service), ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(ask, f"{url}/v1/completions", body)
        streaming = pool.submit(lambda: list(stream_events(url, body)))
        assert wait_until(lambda: service.load().running == 2)
        generator.explode = True
        reply = waiting.result()
        assert (reply.status, reply.error["message"]) == (503, "the engine failed: RuntimeError: out of memory")
        assert "out of memory" in streaming.result()[-1]["error"]["message"]
        assert ask(f"{url}/health").status == 503
        assert ask(f"{url}/health").body == {"status": "failed"}
        assert ask(f"{url}/v1/completions", body).status == 503


def test_a_client_who_does_not_read_holds_up_nobody():
    with served(FakeGenerator(context=20_000)) as (url, service):
        fields = {"prompt": "a", "max_tokens": 15_000, "n": 4, "logprobs": 5, "stream": True, "seed": 0}
        body = json.dumps(fields).encode()
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert wait_until(lambda: service.load().running == 4)
            for number in range(5):
                ids = ask(f"{url}/v1/completions", {"prompt": [number], "return_token_ids": True, **FIELDS}).body
                assert ids["choices"][0]["token_ids"] == expected([number])


def stream_events(url: str, body: dict) -> Iterator[dict]:
    data = json.dumps({**body, "stream": True}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        for line in response:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_who_leaves_stops_the_work_for_him(stream):
    generator = FakeGenerator(seconds_per_step=0.01, ends=False)
    body = json.dumps({"prompt": "a", "max_tokens": 400, "n": 3, "stream": stream}).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with served(generator) as (url, service):
        address = urlsplit(url)
        for _ in range(5):
            with socket.create_connection((address.hostname, address.port)) as connection:
                connection.sendall(request)
                assert wait_until(lambda: service.load().running == 3)
            assert wait_until(lambda: generator.is_idle)
            assert service.load().running == service.load().waiting == 0
        assert len(generator.cancelled) == 15
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(request[:-20])  # leaves in the middle of the body
        assert ask(f"{url}/health").status == 200


def test_many_clients_for_a_while_each_get_their_own_answer_and_memory_stays():
    """32 clients, streams and whole answers, some of whom leave early: no answer is mixed up, nothing piles up."""
    counts, problems = [0] * 32, []
    with served(FakeGenerator(slots=8)) as (url, service):
        end = time.monotonic() + 6

        def client(number: int) -> None:
            draw = random.Random(number)
            with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as api:
                while time.monotonic() < end and not problems:
                    one_request(api, draw, problems)
                    counts[number] += 1

        threads = [threading.Thread(target=client, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        time.sleep(2)
        early = psutil.Process().memory_info().rss
        for thread in threads:
            thread.join()
        late = psutil.Process().memory_info().rss
        assert not problems
        assert min(counts) >= 2
        assert late - early < 64 * 2**20
        assert wait_until(lambda: service.load().running == service.load().waiting == 0)


def one_request(api: openai.OpenAI, draw: random.Random, problems: list) -> None:
    prompt = [draw.randrange(100_000) for _ in range(draw.randrange(1, 20))]
    rules = Sampling(max_tokens=draw.randrange(1, 20), temperature=draw.choice([0.0, 1.0]), seed=draw.randrange(100))
    fields = {"max_tokens": rules.max_tokens, "temperature": rules.temperature, "seed": rules.seed, "n": 2}
    if draw.random() < 0.5:
        answer = api.completions.create(model="tiny", prompt=prompt, **fields)
        texts = [choice.text for choice in answer.choices]
    else:
        texts = ["", ""]
        leaves = draw.random() < 0.2
        with api.completions.create(model="tiny", prompt=prompt, stream=True, **fields) as stream:
            for chunk in stream:
                texts[chunk.choices[0].index] += chunk.choices[0].text
                if leaves:
                    return
    right = [tokenizer().decode(expected(prompt, sample=sample, rules=rules)) for sample in range(2)]
    if texts != right:
        problems.append((prompt, rules, texts, right))
