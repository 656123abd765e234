"""Offline generation: runs many requests to their ends, for new tokens or for scores. Collective; equal on every rank.

Replicas share the requests: each takes every n-th, and all get all results. No result depends on who computed it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from megaphi.engine.inference.forward_only import gather_over_replicas
from megaphi.generation.decoding.inference_engine import InferenceEngine
from megaphi.generation.decoding.interface import Generator, Request, Score, StepOutput, UndefinedLogits
from megaphi.sampling import Finish, Sampling


@dataclass(slots=True)
class Completion:
    """The result of one request."""

    tokens: list[int] = field(default_factory=list)
    """Without the stop token."""
    log_probabilities: list[float] = field(default_factory=list)
    """Under the model itself: temperature 1, no token left out."""
    alternatives: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    finish: Finish = "length"
    stop_token: int | None = None
    """The token that ended it, where one did."""
    scores: tuple[Score, ...] = ()

    def add(self, output: StepOutput) -> None:
        """Take an output of the request. Raises UndefinedLogits."""
        if output.finish == "undefined":
            raise UndefinedLogits
        if output.token is not None:
            self.tokens.append(output.token)
            self.log_probabilities.append(output.log_probability)
            self.alternatives.append(output.alternatives)
        if output.finish is not None:
            self.finish, self.scores, self.stop_token = output.finish, output.scores, output.stop_token


def generate(
    engine: InferenceEngine,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    samples: int = 1,
    stop_tokens: frozenset[int] = frozenset(),
    on_end: Callable[[], object] = lambda: None,
) -> list[list[Completion]]:
    """`samples` completions of every prompt.

    Args:
        on_end: called after each completion that this replica makes, for a progress bar.
    """
    requests = [
        Request(
            name=f"{number}/{sample}",
            prompt=tuple(prompt),
            sampling=sampling,
            sample=sample,
            stop_tokens=stop_tokens,
        )
        for number, prompt in enumerate(prompts)
        for sample in range(samples)
    ]
    found = complete_everywhere(engine, requests, on_end=on_end)
    return [[found[f"{number}/{sample}"] for sample in range(samples)] for number in range(len(prompts))]


def score_continuations(
    engine: InferenceEngine, texts: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[tuple[Score, ...]]:
    """Scores of the tokens of every (prompt, continuation); shared prefixes are computed once."""
    requests = [
        Request(name=str(number), prompt=(*prompt, *continuation), scored=len(continuation))
        for number, (prompt, continuation) in enumerate(texts)
    ]
    found = complete_everywhere(engine, requests)
    return [found[str(number)].scores for number in range(len(texts))]


def complete_everywhere(
    engine: InferenceEngine, requests: Sequence[Request], *, on_end: Callable[[], object] = lambda: None
) -> dict[str, Completion]:
    """`complete` by all replicas together, each for its share of the requests."""
    world = engine.model.world
    found = complete(engine, requests[world.replica :: world.replicas], on_end=on_end)
    return {
        name: answer
        for share in gather_over_replicas(engine.model, found, dict[str, Completion])
        for name, answer in share.items()
    }


def complete(
    generator: Generator, requests: Sequence[Request], *, on_end: Callable[[], object] = lambda: None
) -> dict[str, Completion]:
    """Step until every request has ended; returns the results by name."""
    found: Mapping[str, Completion] = {request.name: Completion() for request in requests}
    for request in requests:
        generator.add(request)
    while not generator.is_idle:
        for output in generator.step():
            found[output.name].add(output)
            if output.finish is not None:
                on_end()
    return dict(found)
