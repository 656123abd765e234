"""A small language model of which everything can be computed: for tests of what runs above a model.

Seven tokens and a stop token; the probabilities of the next one are drawn from the whole prefix by a hash, so no two
prefixes are alike. An answer is right if the sum of its tokens is even. The success probability of every prefix, and
with another token forced, follows by enumeration.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megaphi.generation.decoding.generate import Completion
from megaphi.generation.decoding.interface import Request, Score
from megaphi.generation.decoding.token_choice import uniform
from megaphi.grading.question import MathAnswer, Question
from megaphi.grading.verdict import Verdict, right, undecided, wrong

TOKENS, STOP, LONGEST = 7, 7, 5
PROMPT_TOKENS = 100
"""Ids from here on are prompts."""


@cache
def law(prefix: tuple[int, ...]) -> tuple[float, ...]:
    """S(t | prefix) of the eight tokens; the answer stops at the latest after `LONGEST`."""
    answer = [token for token in prefix if token < PROMPT_TOKENS]
    if len(answer) >= LONGEST:
        return (*([0.0] * TOKENS), 1.0)
    generator = np.random.default_rng([len(prefix), *prefix])
    logits = 1.5 * generator.standard_normal(TOKENS + 1)
    logits[STOP] += len(answer) - 2
    weights = np.exp(logits)
    return tuple((weights / weights.sum()).tolist())


@cache
def success(prefix: tuple[int, ...]) -> float:
    """P(right | prefix), by enumeration."""
    if prefix[-1] == STOP:
        return float(is_right(prefix))
    return sum(p * success((*prefix, token)) for token, p in enumerate(law(prefix)) if p > 0)


def otherwise(prefix: tuple[int, ...], excluded: int) -> float:
    """P(right | prefix, next token differs from `excluded`)."""
    p = law(prefix)
    return sum(p[t] * success((*prefix, t)) for t in range(TOKENS + 1) if t != excluded and p[t]) / (1 - p[excluded])


def is_right(answer: Sequence[int]) -> bool:
    return sum(token for token in answer if token < TOKENS) % 2 == 0


class SmallSource:
    """Implements `RolloutSource`: what is open ends in a random order, a few at a time."""

    facts: Mapping[str, Any] = {"model": "small"}
    context = 1_000
    reason_without_probabilities = ""

    def __init__(self, *, order: int = 0, at_once: int = 5, longest: int = LONGEST + 1) -> None:
        self.requests: list[Request] = []
        """All that was ever asked."""
        self._open: list[Request] = []
        self._random, self._at_once = random.Random(order), at_once
        self._longest = longest

    def submit(self, requests: Sequence[Request]) -> None:
        self.requests += requests
        self._open += requests

    def ended(self) -> list[tuple[str, Completion]]:
        self._random.shuffle(self._open)
        taken, self._open = self._open[: self._at_once], self._open[self._at_once :]
        return [(request.name, self._completed(request)) for request in taken]

    def _completed(self, request: Request) -> Completion:
        if request.scored:
            first = len(request.prompt) - request.scored
            probabilities = [law(request.prompt[:i])[request.prompt[i]] for i in range(first, len(request.prompt))]
            scores = [
                Score(log_probability=float(np.log(p)), top_token=0, entropy=0.0, sampled_probability=p)
                for p in probabilities
            ]
            return Completion(scores=tuple(scores))
        completion = Completion()
        while len(completion.tokens) < min(request.sampling.max_tokens, self._longest):
            token = self._next(request, completion.tokens)
            if token == STOP:
                completion.finish, completion.stop_token = "stop", STOP
                return completion
            completion.tokens.append(token)
        return completion

    def _next(self, request: Request, answer: list[int]) -> int:
        probabilities = np.array(law((*request.prompt, *answer)))
        if not answer:
            probabilities[list(request.excluded_first)] = 0.0
        return drawn(probabilities, uniform(request.sampling.seed, request.sample, len(answer)))


def drawn(probabilities: NDArray[np.float64], number: float) -> int:
    cumulative = probabilities.cumsum()
    return int(np.searchsorted(cumulative, number * cumulative[-1], side="right"))


class SmallTokenizer:
    """The part of `Tokenizer` that a runner uses: an answer's text is its ids."""

    stop_tokens = frozenset({STOP})

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))


class SmallGrader:
    """Grades by `is_right`; answers that begin with `undecidable` cannot be decided."""

    def __init__(self, *, undecidable: int | None = None) -> None:
        self.graded = 0
        self._undecidable = undecidable

    def grade(self, items: Sequence[tuple[Question, str]]) -> list[Verdict]:
        self.graded += len(items)
        return [self._verdict([int(token) for token in text.split()]) for _, text in items]

    def _verdict(self, answer: list[int]) -> Verdict:
        if answer and answer[0] == self._undecidable:
            return undecided("the verifiers disagree")
        return right("even") if is_right(answer) else wrong("odd")


def question(number: int) -> Question:
    return Question(name=f"q{number}", prompt=f"question {number}", key=MathAnswer("even"))


def prompt_of(number: int) -> tuple[int, ...]:
    return (PROMPT_TOKENS, PROMPT_TOKENS + 1 + number)
