"""Many requests at once, to their ends: new tokens, or scores of given ones. Collective; equal on every rank.

Replicas share the requests: each answers every n-th, and all learn all answers. Nothing depends on who answers what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from megaphi.engine.inference.forward_only import over_replicas
from megaphi.generation.decoding.inference_engine import Engine
from megaphi.generation.decoding.interface import Generator, News, Request, Score
from megaphi.sampling import Finish, Sampling


@dataclass(slots=True)
class Continuation:
    """What came of one request."""

    tokens: list[int] = field(default_factory=list)
    """Without a stop token."""
    log_probabilities: list[float] = field(default_factory=list)
    """Under the model itself: temperature 1, no token left out."""
    alternatives: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    finish: Finish = "length"
    scores: tuple[Score, ...] = ()

    def add(self, news: News) -> None:
        if news.token is not None:
            self.tokens.append(news.token)
            self.log_probabilities.append(news.log_probability)
            self.alternatives.append(news.alternatives)
        if news.finish is not None:
            self.finish, self.scores = news.finish, news.scores


def generate(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    samples: int = 1,
    stop_tokens: frozenset[int] = frozenset(),
    on_end: Callable[[], object] = lambda: None,
) -> list[list[Continuation]]:
    """`samples` continuations of every prompt.

    Args:
        on_end: called after each continuation that this replica makes, for a progress bar.
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
    engine: Engine, texts: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[tuple[Score, ...]]:
    """Scores of the tokens of every (prompt, continuation); beginnings that texts share are computed once."""
    requests = [
        Request(name=str(number), prompt=(*prompt, *continuation), scored=len(continuation))
        for number, (prompt, continuation) in enumerate(texts)
    ]
    found = complete_everywhere(engine, requests)
    return [found[str(number)].scores for number in range(len(texts))]


def complete_everywhere(
    engine: Engine, requests: Sequence[Request], *, on_end: Callable[[], object] = lambda: None
) -> dict[str, Continuation]:
    """`complete` by all replicas together, each for its share of the requests."""
    world = engine.model.world
    found = complete(engine, requests[world.replica :: world.replicas], on_end=on_end)
    return {name: answer for share in over_replicas(engine.model, found) for name, answer in share.items()}


def complete(
    generator: Generator, requests: Sequence[Request], *, on_end: Callable[[], object] = lambda: None
) -> dict[str, Continuation]:
    """Step until every request has ended; returns what came of each by name."""
    found: Mapping[str, Continuation] = {request.name: Continuation() for request in requests}
    for request in requests:
        generator.add(request)
    while not generator.is_idle:
        for news in generator.step():
            found[news.name].add(news)
            if news.finish is not None:
                on_end()
    return dict(found)
