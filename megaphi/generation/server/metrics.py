"""Metrics for Prometheus at /metrics: requests, tokens, queue, cache, and latencies.

Latencies are those that a client sees: from the request's arrival, before its body is read, to the first token of an
answer and to its last. Numbers that the inference engine keeps are read when Prometheus asks. Counters live as long as
the server.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from megaphi.generation.server.answer_deltas import AnswerDelta, AnswerPlan
from megaphi.generation.workers import GenerationService

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FIRST_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ANSWER_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class ServingMetrics:
    """The counters of one application."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service
        self._registry = registry = CollectorRegistry(auto_describe=False)
        registry.register(self)  # pyright: ignore[reportArgumentType] (a collector is what has `collect`)
        self._requests = Counter("megaphi_http_requests", "Responses begun", ["path", "status"], registry=registry)
        self._answers = Counter("megaphi_answers", "Answers ended", ["finish"], registry=registry)
        self._prompt_tokens = Counter("megaphi_prompt_tokens", "Tokens of prompts", registry=registry)
        self._generated = Counter("megaphi_generated_tokens", "Tokens of answers", registry=registry)
        self._first_token = Histogram(
            "megaphi_time_to_first_token_seconds",
            "From a request's arrival to the first token of each of its answers",
            buckets=FIRST_TOKEN_SECONDS,
            registry=registry,
        )
        self._answer = Histogram(
            "megaphi_answer_seconds",
            "From a request's arrival to the end of each of its answers",
            buckets=ANSWER_SECONDS,
            registry=registry,
        )

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def count_response(self, path: str, status: int) -> None:
        self._requests.labels(path, str(status)).inc()

    async def watch(
        self, deltas: AsyncIterator[AnswerDelta], plan: AnswerPlan, *, began: float
    ) -> AsyncIterator[AnswerDelta]:
        """Count deltas while passing them on; `began` is the request's arrival by `time.perf_counter`."""
        self._prompt_tokens.inc(sum(len(choice.prompt) for choice in plan.choices if choice.sample == 0))
        begun: set[int] = set()
        async for delta in deltas:
            if delta.tokens and not delta.is_prompt:
                self._generated.inc(len(delta.tokens))
                if delta.index not in begun:
                    begun.add(delta.index)
                    self._first_token.observe(time.perf_counter() - began)
            if delta.finish is not None:
                self._answer.observe(time.perf_counter() - began)
                self._answers.labels(delta.finish).inc()
            yield delta

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the service; called by Prometheus' registry."""
        load, replicas = self._service.load(), self._service.usage()
        yield GaugeMetricFamily("megaphi_engine_up", "Does the engine work?", value=float(not self._service.failure))
        yield GaugeMetricFamily("megaphi_answers_running", "Answers that have a slot", value=load.running)
        yield GaugeMetricFamily("megaphi_answers_waiting", "Answers that wait for a slot", value=load.waiting)
        for name, kind, help_text in ENGINE_METRICS:
            family: Any = kind(f"megaphi_{name}", help_text, labels=["replica"])
            for number, usage in enumerate(replicas):
                family.add_metric([str(number)], getattr(usage, name))
            yield family


ENGINE_METRICS = (
    ("cache_blocks", GaugeMetricFamily, "Blocks of the cache of keys and values"),
    ("cache_blocks_used", GaugeMetricFamily, "Blocks that sequences hold"),
    ("reused_tokens", CounterMetricFamily, "Tokens of prompts that the cache held already"),
    ("preemptions", CounterMetricFamily, "Times that a running sequence was preempted"),
    ("drafted_tokens", CounterMetricFamily, "Tokens that were guessed and computed ahead"),
    ("accepted_tokens", CounterMetricFamily, "Tokens that were guessed ahead and were right"),
)


class CountResponses:
    """ASGI middleware: counts the status of every response, by path."""

    def __init__(self, app: Any, metrics: ServingMetrics, paths: tuple[str, ...]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in self._paths else "other"  # clients choose paths: bounded
                self._metrics.count_response(path, message["status"])
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)
