"""A generator without a model: each token follows from a hash of everything that it may depend on.

An answer that was mixed up with another one, cut at a wrong place or drawn with another seed is therefore noticed, and
`expected_tokens` says what is right without running anything.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace

from megaphi.errors import InputError
from megaphi.generation.decoding.interface import Request, Score, StepOutput, Usage
from megaphi.sampling import Finish, Sampling

ORDINARY = range(256, 90_000)
"""Ids that the fake model chooses from: many hold a part of a character only."""


class FakeGenerator:
    """Implements `Generator`: `slots` requests run at a time, the others wait in the order in which they came."""

    def __init__(
        self,
        *,
        slots: int = 8,
        context: int = 512,
        vocabulary: int = 100_352,
        alphabet: Sequence[int] = ORDINARY,
        seconds_per_step: float = 0.0,
        ends: bool = True,
        tokens_per_step: int = 1,
    ) -> None:
        """Make one without requests.

        Args:
            ends: may an answer end by itself, with a stop token?
            tokens_per_step: more than one are several outputs of a request in a step, as drafts make them.
        """
        self.context = context
        self.vocabulary = vocabulary
        self.slots = slots
        self.alphabet = alphabet
        self.seconds_per_step = seconds_per_step
        self.ends = ends
        self.tokens_per_step = tokens_per_step
        self.explode = False
        self.steps = 0
        self.cancelled: list[str] = []
        self.waiting: list[Request] = []
        self.running: dict[str, tuple[Request, int]] = {}
        self.suspended: dict[str, tuple[Request, int]] = {}
        self.suspensions = 0

    def add(self, request: Request) -> None:
        added = 0 if request.scored else request.sampling.max_tokens
        if not request.prompt or len(request.prompt) + added > self.context:  # as the engine does
            raise InputError(f"{request.name}: {len(request.prompt)} tokens of prompt and {added} to add")
        if not all(0 <= token < self.vocabulary for token in request.prompt):
            raise InputError(f"the prompt of {request.name} holds an id that is out of range")
        assert request.name not in self.running
        request = request if self.ends else replace(request, stop_tokens=frozenset())
        self.waiting.append(request)

    def cancel(self, name: str) -> None:
        self.cancelled.append(name)
        self.waiting = [request for request in self.waiting if request.name != name]
        self.running.pop(name, None)
        self.suspended.pop(name, None)

    def suspend(self, name: str) -> None:
        self.suspensions += 1
        for request in [request for request in self.waiting if request.name == name]:
            self.waiting.remove(request)
            self.suspended[name] = (request, 0)
        if name in self.running:
            self.suspended[name] = self.running.pop(name)

    def resume(self, name: str) -> None:
        if name in self.suspended:
            assert len(self.running) < self.slots
            self.running[name] = self.suspended.pop(name)

    def step(self) -> list[StepOutput]:
        if self.explode:
            raise RuntimeError("out of memory")
        self.steps += 1
        time.sleep(self.seconds_per_step)
        while self.waiting and len(self.running) < self.slots:
            request = self.waiting.pop(0)
            self.running[request.name] = (request, 0)
        return [
            self._advance(*self.running[name])
            for name in list(self.running)
            for _ in range(self.tokens_per_step)
            if name in self.running
        ]

    def _advance(self, request: Request, place: int) -> StepOutput:
        if request.scored:
            del self.running[request.name]
            return StepOutput(request.name, finish="length", scores=scores_of(request))
        token = token_at(request, place, self.alphabet)
        finish: Finish | None = None
        if token is None:
            finish = "stop"
        elif place + 1 >= request.sampling.max_tokens:
            finish = "length"
        self.running[request.name] = (request, place + 1)
        if finish is not None:
            del self.running[request.name]
        if token is None:
            return StepOutput(request.name, None, -0.5, finish=finish, stop_token=min(request.stop_tokens))
        alternatives = tuple(
            (token + rank, log_probability(token) - rank) for rank in range(request.sampling.alternatives)
        )
        return StepOutput(request.name, token, log_probability(token), alternatives, finish)

    @property
    def usage(self) -> Usage:
        return Usage(
            cache_blocks=64,
            cache_blocks_used=len(self.running),
            reused_tokens=5,
            preemptions=2,
            drafted_tokens=7,
            accepted_tokens=6,
        )

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self.running


def token_at(request: Request, place: int, alphabet: Sequence[int] = ORDINARY) -> int | None:
    """None is a stop token, which comes about every 200 tokens."""
    rules = request.sampling
    draw = (rules.seed, request.sample) if rules.temperature else None
    key = repr((request.prompt, draw, rules.temperature, rules.top_p, rules.top_k, place))
    value = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
    return None if request.stop_tokens and value % 200 == 0 else alphabet[value % len(alphabet)]


def scores_of(request: Request) -> tuple[Score, ...]:
    """A score for each scored token; the alternatives are the tokens after it, itself first."""
    wanted = range(request.sampling.alternatives)
    return tuple(
        Score(
            log_probability(token), token, 1.0, tuple((token + rank, log_probability(token) - rank) for rank in wanted)
        )
        for token in request.prompt[len(request.prompt) - request.scored :]
    )


def log_probability(token: int) -> float:
    return -((token % 997) + 1) / 100


def expected_tokens(
    prompt: Sequence[int], rules: Sampling, *, sample: int = 0, alphabet: Sequence[int] = ORDINARY, ends: bool = True
) -> list[int]:
    """The fake model's answer. `ends`: whether it may end an answer by itself."""
    stop_tokens = frozenset({1}) if ends else frozenset()
    request = Request(name="", prompt=tuple(prompt), sampling=rules, sample=sample, stop_tokens=stop_tokens)
    tokens: list[int] = []
    while len(tokens) < rules.max_tokens and (token := token_at(request, len(tokens), alphabet)) is not None:
        tokens.append(token)
    return tokens
