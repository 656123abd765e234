"""The small model behind the interface of our engine, step by step: for what runs above generators and servers."""

from __future__ import annotations

import numpy as np

from megaphi.generation.decoding.interface import Request, Score, StepOutput, Usage
from megaphi.generation.decoding.token_choice import uniform
from tests.pivotal.small_world import STOP, drawn, law


class SmallGenerator:
    """Implements `Generator`: all requests run at once; the model's stop token is whichever a request has."""

    context = 1_000
    vocabulary = 100_352
    slots = 1_000
    usage = Usage()

    def __init__(self) -> None:
        self._running: dict[str, tuple[Request, list[int]]] = {}

    def add(self, request: Request) -> None:
        self._running[request.name] = request, []

    def cancel(self, name: str) -> None:
        self._running.pop(name, None)

    def step(self) -> list[StepOutput]:
        outputs = [self._advance(request, answer) for request, answer in self._running.values()]
        for output in outputs:
            if output.finish is not None:
                del self._running[output.name]
        return outputs

    @property
    def is_idle(self) -> bool:
        return not self._running

    def _advance(self, request: Request, answer: list[int]) -> StepOutput:
        if request.scored:
            return StepOutput(request.name, finish="length", scores=scores_of(request))
        probabilities = np.array(law((*request.prompt, *answer)))
        if not answer:
            probabilities[[own_id(token, request) for token in request.excluded_first]] = 0.0
        for token, bias in request.sampling.logit_bias:
            if own_id(token, request) <= STOP:
                probabilities[own_id(token, request)] *= np.exp(bias)
        token = drawn(probabilities, uniform(request.sampling.seed, request.sample, len(answer)))
        if token == STOP:
            return StepOutput(request.name, None, 0.0, finish="stop", stop_token=min(request.stop_tokens))
        answer.append(token)
        is_last = len(answer) == request.sampling.max_tokens
        return StepOutput(request.name, token, 0.0, finish="length" if is_last else None)


def own_id(token: int, request: Request) -> int:
    return STOP if token in request.stop_tokens else token


def scores_of(request: Request) -> tuple[Score, ...]:
    """As the engine gives them, stop tokens of a prompt included: a server's request to score has none of its own."""
    scores = []
    for position in range(len(request.prompt) - request.scored, len(request.prompt)):
        token = request.prompt[position]
        probabilities = law(tuple(request.prompt[:position]))
        p = probabilities[token if token < STOP else STOP]
        scores.append(Score(float(np.log(p)), top_token=0, entropy=0.0, sampled_probability=p))
    return tuple(scores)
