"""The interface of generation: requests in token ids, the outputs of a step, and the `Generator` that makes them.

A request asks for new tokens, or for the scores of its own last tokens (teacher forcing). A generator knows neither
text nor conversations; `local_sampler.py` and `server/` do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from megaphi.errors import RunFailed
from megaphi.sampling import Finish, Sampling


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One sequence to continue, or to score."""

    name: str
    """Unique among the requests that a generator has open."""
    prompt: tuple[int, ...]
    """Token ids, at least one."""
    sampling: Sampling = field(default_factory=Sampling)
    sample: int = 0
    """Number of this sample among those of one prompt; its draws depend on it."""
    stop_tokens: frozenset[int] = frozenset()
    """Ids that end the answer and are not part of it. Stop texts are the caller's business, who cancels."""
    excluded_first: frozenset[int] = frozenset()
    """Ids that the answer does not begin with: its first token is drawn from the law that the sampling rules leave
    (after temperature, top-k, top-p, min-p), with these taken out and the others sharing their probability. An answer
    for which no token is left ends at once, with the finish "excluded". Temperature 0 leaves the top token only."""
    family: str = ""
    """Sequences of one family, as samples of one question are, are drafts for each other (`drafts.py`): some answers
    come sooner, with the same tokens. "" drafts nothing. A request with a JSON schema takes no drafts and is one."""
    scored: int = 0
    """Score this many of the prompt's last tokens, and generate none."""
    candidates: tuple[int, ...] = ()
    """Further tokens whose log-probability is told at every scored position: the letters of a choice in one request."""


class Score(NamedTuple):
    """The model's prediction at one target token."""

    log_probability: float
    top_token: int
    """The most probable token there."""
    entropy: float
    """Entropy of the whole distribution there, in nats."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """The top tokens, as many as `sampling.alternatives` asks for, with their log-probabilities."""
    sampled_probability: float = math.nan
    """Probability that a draw by the request's sampling rules takes the target token, 0 for one that they leave out;
    at temperature 0 it is 1 or 0. The tokens scored before it count as the answer so far. Not a number for a request
    with a JSON schema, whose law depends on a grammar that scoring does not follow."""
    candidates: tuple[float, ...] = ()
    """Log-probabilities of the request's candidates there."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """A token of one request, its end, or both. A step has several for a request whose draft was right, in order."""

    name: str
    token: int | None = None
    log_probability: float = 0.0
    """Log-probability of `token`, or of `stop_token`, under the model itself (temperature 1, no token left out)."""
    alternatives: tuple[tuple[int, float], ...] = ()
    finish: Finish | None = None
    """Set in the last output of a request. With "stop", `token` is None: the stop token is not part of the answer."""
    stop_token: int | None = None
    """The token that ended the answer, where one did."""
    scores: tuple[Score, ...] = ()
    """In the last output of a request that asked for them."""


class UndefinedLogits(RunFailed):
    """The model's logits for one request were no numbers; other requests are not touched."""

    def __init__(self) -> None:
        super().__init__(
            "the model's output for this prompt is not a number (NaN or minus infinity): the weights hold such values, "
            "or a pass overflowed"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Counters of a generator: its cache, and how well it was used."""

    cache_blocks: int = 0
    cache_blocks_used: int = 0
    reused_tokens: int = 0
    """Prompt tokens that were in the cache already."""
    preemptions: int = 0
    """Number of times that a running sequence was preempted, or suspended."""
    drafted_tokens: int = 0
    """Tokens of answers that were guessed and computed ahead."""
    accepted_tokens: int = 0
    """Those of them that were right."""
    starved: tuple[str, ...] = ()
    """Names of requests that wait for room in the cache."""


class Generator(Protocol):
    """The interface that server and local sampler drive: add, cancel or suspend at any time, step until all is done."""

    context: int
    """The longest that prompt and answer may be together, in tokens."""
    vocabulary: int
    slots: int
    """Requests that run at once."""

    def add(self, request: Request) -> None:
        """Queue a request. Raises InputError for one that can never run (empty, too long, ids out of range)."""
        ...

    def cancel(self, name: str) -> None:
        """Drop a request; its last output comes with the next step. Unknown names are ignored."""
        ...

    def suspend(self, name: str) -> None:
        """Free the slot of a request, which has the same tokens after `resume`. Unknown names are ignored."""
        ...

    def resume(self, name: str) -> None:
        """Queue a suspended request for a slot. Unknown names are ignored."""
        ...

    def step(self) -> Sequence[StepOutput]:
        """Advance every running request: by no token, by one, or by several where a draft was right.

        Outputs of one request are in the order of its tokens; none follows the one with its finish.
        """
        ...

    @property
    def usage(self) -> Usage:
        """As of the last step; may be read by any thread."""
        ...

    @property
    def is_idle(self) -> bool:
        """Return whether no request is running or waiting; suspended ones are not."""
        ...
