"""/metrics as Prometheus reads it, and /health for whoever balances load: neither asks for the key."""

from __future__ import annotations

import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.generation.server.fake_generator import FakeGenerator
from tests.generation.server.served import ask, served, wait_until

BODY = {"prompt": [5, 6, 7], "max_tokens": 4, "n": 2, "seed": 1, "ignore_eos": True}


def metrics_of(url: str) -> dict[tuple[str, ...], float]:
    """(name, values of its labels) to value."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = list(text_string_to_metric_families(response.read().decode()))
    assert all(family.documentation for family in families)
    return {
        (sample.name.removeprefix("megaphi_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_what_was_done_is_counted():
    with served(FakeGenerator(), api_key="s3cret") as (url, _):
        before = metrics_of(url)
        assert before["engine_up",] == 1
        assert before["generated_tokens_total",] == 0
        key: dict[str, Any] = {"Authorization": "Bearer s3cret"}
        for extra in ({}, {"stream": True}):
            with urllib.request.urlopen(_post(url, BODY | extra, key), timeout=10) as response:
                response.read()
        assert ask(f"{url}/v1/completions", BODY).status == 401
        assert ask(f"{url}/v1/completions", {**BODY, "n": 0}, **key).status == 400
        assert ask(f"{url}/v1/no/such/{'x' * 50}", **key).status == 404
        found = metrics_of(url)
    assert found["http_requests_total", "/v1/completions", "200"] == 2
    assert found["http_requests_total", "/v1/completions", "401"] == 1
    assert found["http_requests_total", "/v1/completions", "400"] == 1
    assert found["http_requests_total", "other", "404"] == 1
    assert found["prompt_tokens_total",] == 2 * 3
    assert found["generated_tokens_total",] == 2 * 2 * 4
    assert found["answers_total", "length"] == 4
    assert found["time_to_first_token_seconds_count",] == found["answer_seconds_count",] == 4
    assert 0 < found["time_to_first_token_seconds_sum",] <= found["answer_seconds_sum",]
    assert found["answer_seconds_bucket", "+Inf"] == 4
    assert found["cache_blocks", "0"] == 64
    assert found["preemptions_total", "0"] == 2
    assert found["reused_tokens_total", "0"] == 5
    assert (found["drafted_tokens_total", "0"], found["accepted_tokens_total", "0"]) == (7, 6)


def _post(url: str, body: dict[str, Any], headers: dict[str, str]) -> urllib.request.Request:
    import json

    data = json.dumps(body).encode()
    return urllib.request.Request(f"{url}/v1/completions", data, {"Content-Type": "application/json", **headers})


def test_queue_and_failure_are_seen():
    generator = FakeGenerator(slots=1, seconds_per_step=0.01, ends=False)
    with served(generator) as (url, service):
        import threading

        bodies = [{"prompt": [number], "max_tokens": 400} for number in range(3)]
        clients = [threading.Thread(target=ask, args=(f"{url}/v1/completions", body)) for body in bodies]
        for client in clients:
            client.start()
        assert wait_until(lambda: service.load().running == 1 and service.load().waiting == 2)
        found = metrics_of(url)
        assert (found["answers_running",], found["answers_waiting",]) == (1, 2)
        assert ask(f"{url}/health").body["waiting"] == 2
        generator.explode = True
        for client in clients:
            client.join(10)
        assert metrics_of(url)["engine_up",] == 0
        assert (ask(f"{url}/health").status, ask(f"{url}/health").body["status"]) == (503, "failed")


def test_a_server_that_stops_is_not_ready():
    with served(FakeGenerator()) as (url, service):
        assert ask(f"{url}/health").status == 200
        service.close()
        assert (ask(f"{url}/health").status, ask(f"{url}/health").body) == (503, {"status": "stopping"})


@pytest.mark.parametrize("path", ["metrics"])
def test_a_foreign_name_learns_nothing(path):
    with served(FakeGenerator(), hosts=frozenset({"127.0.0.1"})) as (url, _):
        assert ask(f"{url}/{path}", Host="evil.example").status == 403
