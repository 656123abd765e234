"""Our engine's workers and a real server as sources: the same searches, exact laws, and what a server cannot tell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megaphi.errors import InputError, RunFailed
from megaphi.generation.client.endpoint import EndpointSampler
from megaphi.generation.client.http_exchange import RetryPolicy
from megaphi.generation.decoding.interface import Request
from megaphi.generation.workers import GenerationService
from megaphi.pivotal.rollouts.endpoint_source import EndpointSource
from megaphi.pivotal.rollouts.local_source import LocalSource
from megaphi.pivotal.rollouts.source import RolloutSource
from megaphi.sampling import Sampling
from tests.generation.server.served import served, tokenizer
from tests.pivotal.searches import search
from tests.pivotal.small_generator import SmallGenerator
from tests.pivotal.small_world import STOP, law, prompt_of

RULES = Sampling(temperature=1.0, max_tokens=6, seed=1)
END = min(tokenizer().stop_tokens)


def all_of(source: RolloutSource, requests: list[Request]) -> dict[str, Any]:
    source.submit(requests)
    found: dict[str, Any] = {}
    while len(found) < len(requests):
        found.update(source.ended())
    assert source.ended() == []
    return found


def test_the_workers_of_two_replicas_give_the_same_search(tmp_path: Path) -> None:
    expected, _ = search(tmp_path / "expected")
    service = GenerationService(SmallGenerator(), SmallGenerator(), max_waiting=20)
    service.start()
    try:
        source: Any = LocalSource(service, facts={"sampler": "small"})
        found, _ = search(tmp_path / "found", source=source)
    finally:
        service.close()
    assert found == expected


def test_an_engine_that_fails_ends_the_search(tmp_path: Path) -> None:
    generator = SmallGenerator()
    generator.step = lambda: 1 / 0  # pyright: ignore[reportAttributeAccessIssue]
    service = GenerationService(generator, on_failure=lambda _: None)
    service.start()
    try:
        source: Any = LocalSource(service, facts={})
        with pytest.raises(RunFailed, match="division by zero"):
            search(tmp_path / "store", source=source)
    finally:
        service.close()


@pytest.fixture
def server() -> Iterator[str]:
    with served(SmallGenerator()) as (url, _):  # pyright: ignore[reportArgumentType]
        yield f"{url}/v1"


def endpoint(url: str, **options: Any) -> EndpointSampler:
    return EndpointSampler(url, "tiny", tokenizer=tokenizer(), patience=RetryPolicy(attempts=1), **options)


def test_a_servers_probabilities_and_divergences_are_the_models(server: str) -> None:
    with EndpointSource(endpoint(server), RULES, at_once=8) as source:
        assert source.reason_without_probabilities == ""
        prompt = (*prompt_of(0), 3)
        scored = Request(name="scored", prompt=(*prompt, 2, 5, END), sampling=RULES, scored=3)
        forced = [
            Request(name=str(n), prompt=prompt, sampling=RULES, sample=n, excluded_first=frozenset({2}))
            for n in range(400)
        ]
        found = all_of(source, [scored, *forced])
    probabilities = [score.sampled_probability for score in found["scored"].scores]
    exact = [law(prompt)[2], law((*prompt, 2))[5], law((*prompt, 2, 5))[STOP]]
    assert probabilities == pytest.approx(exact, rel=1e-6)
    first = [(found[str(n)].tokens or [STOP])[0] for n in range(400)]
    assert 2 not in first
    shares = np.array(law(prompt)) / (1 - law(prompt)[2])
    shares[2] = 0.0
    counted = np.bincount(first, minlength=STOP + 1) / 400
    assert np.abs(counted - shares).max() < 4 * math.sqrt(0.25 / 400)
    second = [found[str(n)].tokens[1] for n in range(400) if len(found[str(n)].tokens) > 1]
    assert len(set(second)) > 3  # the second request has random numbers of its own
    ended = [completion for completion in found.values() if completion.finish == "stop"]
    assert all(completion.stop_token == END for completion in ended)


def test_a_divergence_from_the_end_of_an_answer_goes_on(server: str) -> None:
    with EndpointSource(endpoint(server), RULES) as source:
        prompt = (*prompt_of(0), 3, 4, 1)
        forced = [
            Request(name=str(n), prompt=prompt, sampling=RULES, sample=n, excluded_first=frozenset({END}))
            for n in range(20)
        ]
        assert all(completion.tokens for completion in all_of(source, forced).values())


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (Sampling(temperature=0.7), "at temperature 1 only"),
        (Sampling(temperature=1.0, top_p=0.9), "with no token left out"),
        (Sampling(temperature=1.0, top_k=5), "with no token left out"),
    ],
)
def test_rules_under_which_a_server_tells_too_little(server: str, rules: Sampling, reason: str) -> None:
    with EndpointSource(endpoint(server), rules) as source:
        assert reason in source.reason_without_probabilities


def test_a_server_that_refuses_an_echo(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = endpoint(server)

    def refuse(tokens: object) -> list[float]:
        raise InputError("echo is not supported")

    monkeypatch.setattr(sampler, "echoed", refuse)
    with EndpointSource(sampler, RULES) as source:
        expected = "the server does not tell the log-probabilities of a prompt: echo is not supported"
        assert source.reason_without_probabilities == expected


def test_a_server_that_is_gone_ends_the_search_with_one_message() -> None:
    with served(SmallGenerator()) as (url, _):  # pyright: ignore[reportArgumentType]
        source = EndpointSource(endpoint(f"{url}/v1"), RULES)
    with pytest.raises(RunFailed, match=r"/v1/completions"), source:
        all_of(source, [Request(name="a", prompt=prompt_of(0), sampling=RULES)])
