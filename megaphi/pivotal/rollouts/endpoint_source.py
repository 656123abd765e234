"""A server that speaks OpenAI's protocol as a source of rollouts.

Rollouts continue token ids, so the server must take and return them (ours and vLLM do). Probabilities of tokens come
from an echo of the prompt, and a forced divergence takes two requests: a first token with the excluded one biased away,
then the rest. Both are exact only at temperature 1 with nothing left out, and only where the server echoes; elsewhere
the source has no probabilities, and a search falls back to bisection.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from megaphi.errors import InputError
from megaphi.generation.client.endpoint import EndpointSampler
from megaphi.generation.decoding.generate import Completion
from megaphi.generation.decoding.interface import Request, Score
from megaphi.sampling import Answer, Sampling

BANNED = -100.0
"""The bias that keeps a token out, in OpenAI's protocol."""


class EndpointSource:
    """Implements `RolloutSource`. A context manager: leaving it drops what has not begun."""

    context = None  # a server refuses what is too long

    def __init__(self, sampler: EndpointSampler, rules: Sampling, *, at_once: int = 64) -> None:
        """Makes one request, to find out whether the server tells probabilities.

        Args:
            at_once: requests under way at a time.
        """
        tokenizer = sampler.tokenizer
        self.facts = {"sampler": f"{sampler.url} {sampler.name}", "tokenizer": tokenizer.fingerprint}
        self._sampler, self._stop_tokens = sampler, tokenizer.stop_tokens
        self._stop = min(tokenizer.stop_tokens)  # servers do not say which one ended an answer: one stands for all
        self._pool = ThreadPoolExecutor(at_once)
        self._ended: SimpleQueue[tuple[str, Completion] | Exception] = SimpleQueue()
        self._open = 0
        self.reason_without_probabilities = self._why_not(rules)
        """Reason the server's probabilities cannot be used; empty if they can."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=error is None, cancel_futures=True)

    def submit(self, requests: Sequence[Request]) -> None:
        self._open += len(requests)
        for request in requests:
            self._pool.submit(self._run, request)

    def ended(self) -> list[tuple[str, Completion]]:
        found: list[tuple[str, Completion]] = []
        while self._open:
            try:
                item = self._ended.get(block=not found)
            except Empty:
                return found
            if isinstance(item, Exception):
                raise item
            self._open -= 1
            found.append(item)
        return found

    def _why_not(self, rules: Sampling) -> str:
        if (rules.temperature, rules.top_k, rules.top_p, rules.min_p) != (1.0, 0, 1.0, 0.0):
            return "a server tells probabilities at temperature 1 only, with no token left out"
        try:
            self._sampler.echoed([self._stop, self._stop])
        except InputError as error:
            return f"the server does not tell the log-probabilities of a prompt: {error}"
        return ""

    def _run(self, request: Request) -> None:
        try:
            completion = self._scored(request) if request.scored else self._continued(request)
            self._ended.put((request.name, completion))
        except Exception as error:  # whoever waits for it raises it
            self._ended.put(error)

    def _scored(self, request: Request) -> Completion:
        found = [token.log_probability for token in self._sampler.echoed(request.prompt)[-request.scored :]]
        scores = [Score(value, top_token=-1, entropy=math.nan, sampled_probability=math.exp(value)) for value in found]
        return Completion(scores=tuple(scores))

    def _continued(self, request: Request) -> Completion:
        rules = replace(request.sampling, seed=_seed(request, 0))
        if not request.excluded_first:
            return self._completion((), self._ask(request.prompt, rules))
        is_stop = bool(request.excluded_first & self._stop_tokens)
        banned = request.excluded_first | (self._stop_tokens if is_stop else frozenset())
        bias = tuple((token, BANNED) for token in sorted(banned))
        first = self._ask(request.prompt, replace(rules, max_tokens=1, logit_bias=bias))
        if first.finish == "stop" or rules.max_tokens == 1:
            return self._completion((), first)
        rules = replace(rules, max_tokens=rules.max_tokens - 1, seed=_seed(request, 1))
        rest = self._ask((*request.prompt, *first.tokens), rules)
        return self._completion(first.tokens, rest)

    def _ask(self, prompt: Sequence[int], rules: Sampling) -> Answer:
        return self._sampler.sample([prompt], rules)[0][0]

    def _completion(self, before: tuple[int, ...], answer: Answer) -> Completion:
        stop = self._stop if answer.finish == "stop" else None
        return Completion(tokens=[*before, *answer.tokens], finish=answer.finish, stop_token=stop)


def _seed(request: Request, part: int) -> int:
    """The seed of one HTTP request: every sample is a request of its own, a forced divergence two."""
    content = f"{request.sampling.seed} {request.sample} {part}".encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1
