"""The sampler behind an address, against our own server with faults put in front of it, and against a foreign one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse

from megaphi.conversation import Conversation, Message
from megaphi.errors import AffectsAll, InputError, RunFailed
from megaphi.generation.client.endpoint import EndpointSampler
from megaphi.generation.client.http_exchange import RetryPolicy, post_json
from megaphi.generation.client.request_journal import RequestJournal, request_key
from megaphi.generation.text import render_prompt
from megaphi.generation.workers import GenerationService
from megaphi.sampling import Sampling
from tests.generation.server.fake_generator import FakeGenerator, expected_tokens, log_probability
from tests.generation.server.served import app_of, serve_app, served, tokenizer

RULES = Sampling(max_tokens=7, temperature=0.9, top_k=5, seed=21, alternatives=2)
PROMPTS = [Conversation((Message("user", "hi"),)), "once upon", [5, 7, 9], *([number] for number in range(30))]
QUICK = RetryPolicy(attempts=4, timeout_seconds=5, first_wait_seconds=0.01, longest_wait_seconds=1)


class Faults:
    """ASGI in front of an application: each POST goes wrong as the next fault says, then all is well."""

    def __init__(self, app: Any, faults: Iterator[Any]) -> None:
        self.app = app
        self.faults = faults
        self.posts = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        self.posts += 1
        fault = next(self.faults, None)
        if fault is None:
            return await self.app(scope, receive, send)
        if fault == "break off":
            start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]}
            await send(start)
            await send({"type": "http.response.body", "body": b'{"choices": ', "more_body": True})
            raise ConnectionError("on purpose")
        if fault == "garbage":
            return await JSONResponse({}, headers={"content-length": "2"})(scope, receive, cut_to_garbage(send))
        headers = {"Retry-After": "0.05"} if fault == 429 else {}
        error = {"error": {"message": f"fault {fault}"}}
        return await JSONResponse(error, status_code=fault, headers=headers)(scope, receive, send)


def cut_to_garbage(send: Any) -> Any:
    async def replaced(message: Any) -> None:
        await send({**message, "body": b"<p"} if message["type"] == "http.response.body" else message)

    return replaced


def app(generator: FakeGenerator, faults: Iterable[Any] = ()) -> Faults:
    return Faults(app_of(GenerationService(generator)), iter(faults))


def sampler(url: str, **settings: Any) -> EndpointSampler:
    return EndpointSampler(f"{url}/v1", "tiny", tokenizer=tokenizer(), patience=QUICK, **settings)


def check_answers(answers: Any, prompts: Any, *, samples: int) -> None:
    for prompt, found in zip(prompts, answers, strict=True):
        ids = render_prompt(prompt, tokenizer())
        assert len(found) == samples
        for sample, answer in enumerate(found):
            tokens = expected_tokens(ids, RULES, sample=sample)
            assert answer.tokens == tuple(tokens)
            assert answer.text == tokenizer().decode(tokens)
            assert answer.log_probabilities == tuple(log_probability(token) for token in tokens)
            assert [[token for token, _ in top] for top in answer.alternatives] == [[one, one + 1] for one in tokens]
            assert answer.finish == ("length" if len(tokens) == RULES.max_tokens else "stop")
            assert answer.prompt_tokens == len(ids)


def test_answers_of_our_server_are_complete_and_in_order():
    with served(FakeGenerator(slots=4)) as (url, _):
        check_answers(sampler(url).sample(PROMPTS, RULES, samples=3), PROMPTS, samples=3)


@pytest.mark.parametrize("fault", [429, 500, 503, "break off", "garbage"])
def test_faults_are_outlived(fault, caplog):
    faulty = app(FakeGenerator(), itertools.repeat(fault, 3))
    with serve_app(faulty) as url:
        check_answers(sampler(url).sample(PROMPTS[:1], RULES), PROMPTS[:1], samples=1)
        assert faulty.posts == 4


def test_many_faults_among_many_requests():
    faults = iter([500, None, 429, "break off", None, "garbage", 503] * 10)
    with serve_app(app(FakeGenerator(), faults)) as url:
        patient = RetryPolicy(attempts=20, timeout_seconds=5, first_wait_seconds=0.01, longest_wait_seconds=0.05)
        one = EndpointSampler(f"{url}/v1", "tiny", tokenizer=tokenizer(), patience=patient)
        check_answers(one.sample(PROMPTS, RULES), PROMPTS, samples=1)


def test_the_last_attempt_says_what_happened():
    failing = app(FakeGenerator(), itertools.repeat(503))
    with serve_app(failing) as url, pytest.raises(RunFailed, match="given up after 4 attempts: status 503: fault 503"):
        sampler(url).sample(PROMPTS, RULES)
    with pytest.raises(RunFailed, match="given up after 4 attempts: ConnectionRefusedError"):
        sampler(url).sample(PROMPTS, RULES)


def test_what_the_server_refuses_is_not_asked_again():
    faulty = app(FakeGenerator())
    with serve_app(faulty) as url:
        with pytest.raises(InputError, match="status 400: prompt: prompt 1 has 600 tokens"):
            sampler(url).sample([[5] * 600], RULES)
        with pytest.raises(InputError, match="status 404: there is no model 'huge'"):
            EndpointSampler(f"{url}/v1", "huge", tokenizer=tokenizer()).sample(["a"], RULES)
        assert faulty.posts == 2


def test_a_silent_server_is_a_timeout():
    with served(FakeGenerator(seconds_per_step=1.0)) as (url, _):
        hasty = RetryPolicy(attempts=2, timeout_seconds=0.2, first_wait_seconds=0.01)
        with pytest.raises(RunFailed, match="given up after 2 attempts: TimeoutError"):
            EndpointSampler(f"{url}/v1", "tiny", tokenizer=tokenizer(), patience=hasty).sample(["a"], RULES)


def test_a_key_is_sent():
    with served(FakeGenerator(), api_key="s3cret") as (url, _):
        assert sampler(url, api_key="s3cret").sample(["a"], RULES)
        with pytest.raises(InputError, match="status 401"):
            sampler(url).sample(["a"], RULES)


def test_waits_grow_and_are_as_long_as_the_server_wishes():
    waits = []
    patience = RetryPolicy(attempts=7, first_wait_seconds=1, longest_wait_seconds=8)
    with serve_app(app(FakeGenerator(), iter([500, 500, 500, 500, 500, 429]))) as url:
        body = {"prompt": "a", "max_tokens": 1}
        post_json(f"{url}/v1/completions", body, headers={}, patience=patience, sleep=waits.append)
    for wait, longest in zip(waits, [1, 2, 4, 8, 8, 8], strict=True):
        assert longest / 2 <= wait <= longest


@pytest.mark.parametrize("url", ["", "127.0.0.1:80", "ftp://x/v1", "http://", "http://x:port/v1"])
def test_an_address_that_is_none_is_refused_at_once(url):
    with pytest.raises(InputError, match="is not the address of a server"):
        EndpointSampler(url, "tiny", tokenizer=tokenizer())


def test_a_second_run_asks_for_nothing(tmp_path):
    path = tmp_path / "logs" / "answers.jsonl"
    faulty = app(FakeGenerator())

    def asked(count: int) -> Any:
        with RequestJournal(path) as journal:
            return sampler(url, journal=journal).sample(PROMPTS[:count], RULES, samples=2)

    with serve_app(faulty) as url:
        first = asked(5)
        assert faulty.posts == 5
        again = asked(7)
        assert again[:5] == first
        assert faulty.posts == 7
        with open(path, "ab") as file:
            file.truncate(path.stat().st_size - 10)
        assert asked(7) == again
        assert faulty.posts == 8
    assert asked(7) == again


def test_a_journal_has_one_writer(tmp_path):
    with RequestJournal(tmp_path / "a.jsonl"), pytest.raises(InputError, match=r"a.jsonl now: let it end"):
        RequestJournal(tmp_path / "a.jsonl")
    RequestJournal(tmp_path / "a.jsonl").close()


def test_a_damaged_journal_is_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"request": "a", "response": 1}\nnonsense\n{"request": "b", "response": 2}\n')
    with pytest.raises(InputError, match=r"answers.jsonl: line 2 is not an answer"):
        RequestJournal(path)
    with pytest.raises(InputError, match="cannot write"):
        RequestJournal(tmp_path)


@given(st.integers(0, 200))
def test_a_journal_cut_anywhere_keeps_its_whole_lines(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "answers.jsonl"
    journal = RequestJournal(path)
    for number in range(4):
        journal.add(f"key {number}", {"text": "é" * number})
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    shorter = RequestJournal(path)
    assert len(shorter) == whole[:cut].count(b"\n")
    shorter.add("new", 5)
    shorter.close()
    assert RequestJournal(path).get("new") == 5


def test_the_key_of_a_request_is_its_content():
    assert request_key("/a", {"x": 1, "y": 2}) == request_key("/a", {"y": 2, "x": 1})
    assert len({request_key("/a", {"x": 1}), request_key("/b", {"x": 1}), request_key("/a", {"x": 2})}) == 3


def foreign(answer: Any) -> Any:
    """A server that knows nothing of ours, and always says the same."""

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await JSONResponse(json.loads(answer) if isinstance(answer, str) else answer)(scope, receive, send)

    return answering


def foreign_answer(text: str, names: list[str]) -> dict[str, Any]:
    top = [{"token": name, "logprob": -1.0, "bytes": None} for name in (" a", "not one token of ours")]
    content = [{"token": name, "logprob": -0.5, "bytes": None, "top_logprobs": top} for name in names]
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": {"content": content}}
    return {"choices": [choice], "usage": {"prompt_tokens": 3}}


@pytest.mark.parametrize("same_tokens", [True, False])
def test_a_foreign_server_gives_text_and_log_probabilities_where_its_tokens_are_ours(same_tokens):
    text = "the sky is blue"
    names = [tokenizer().decode([token]) for token in tokenizer().encode(text)] if same_tokens else ["the ", "sky"]
    with serve_app(foreign(foreign_answer(text, names))) as url:
        ((answer,),) = sampler(url, token_ids=False).sample(PROMPTS[:1], RULES)
    assert answer.text == text
    assert answer.tokens == tuple(tokenizer().encode(text))
    assert answer.log_probabilities == ((-0.5,) * 4 if same_tokens else ())
    assert answer.alternatives == ((((tokenizer().encode(" a")[0], -1.0),),) * 4 if same_tokens else ())


@pytest.mark.parametrize("answer", [{}, [], {"choices": [], "usage": {"prompt_tokens": 1}}, {"choices": 5}], ids=str)
def test_an_answer_without_what_was_promised_is_one_error(answer):
    with serve_app(foreign(answer)) as url, pytest.raises(RunFailed, match=r"promises|0 answers came"):
        sampler(url).sample(["a"], RULES)


@pytest.mark.parametrize(
    ("status", "affects_all"), [(400, False), (413, False), (422, False), (401, True), (404, True)]
)
def test_an_error_says_if_the_next_request_would_meet_it_too(status: int, affects_all: bool) -> None:
    with serve_app(app(FakeGenerator(), [status])) as url, pytest.raises(InputError, match=f"fault {status}") as found:
        sampler(url).sample(["a"], RULES)
    assert isinstance(found.value, AffectsAll) == affects_all
