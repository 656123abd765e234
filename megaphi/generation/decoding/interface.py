"""What the generation engine takes and gives: requests in token ids, and a step's news about each of them.

A request asks for new tokens, or for the scores of its own last tokens (teacher forcing). The engine knows neither text
nor conversations; `local.py` and `server.py` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from megaphi.sampling import Finish, Sampling


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One text to continue, or to score."""

    name: str
    """Unique among the requests that are in the engine."""
    prompt: tuple[int, ...]
    """Token ids, at least one."""
    sampling: Sampling = field(default_factory=Sampling)
    sample: int = 0
    """Number of this sample among those of one prompt: part of the key of its draws."""
    stop_tokens: frozenset[int] = frozenset()
    """Ids that end the answer and are not part of it. Stop texts are the caller's business: it cancels."""
    scored: int = 0
    """Score so many of the prompt's last tokens, and add none."""


class Score(NamedTuple):
    """What the model thinks of one given token, and of its place."""

    log_probability: float
    likeliest: int
    entropy: float
    """Of the whole distribution at this place, in nats."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """As many of the likeliest as `sampling.alternatives` asks for, with their log-probabilities."""


@dataclass(frozen=True, slots=True)
class News:
    """What a step did for one request: a token, its end, or both."""

    name: str
    token: int | None = None
    log_probability: float = 0.0
    """Of `token`, or of `stop_token`, under the model itself (temperature 1, no token left out)."""
    alternatives: tuple[tuple[int, float], ...] = ()
    finish: Finish | None = None
    """Set in the last news of a request. With "stop", `token` is None: the stop token is not part of the answer."""
    stop_token: int | None = None
    """What ended the answer, where a token did."""
    scores: tuple[Score, ...] = ()
    """In the last news of a request that asked for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a generator has to do with, and has done."""

    cache_blocks: int = 0
    cache_blocks_used: int = 0
    reused_tokens: int = 0
    """Tokens of prompts that were in the cache already."""
    preemptions: int = 0
    """How often a text gave its blocks to an older one."""


class Generator(Protocol):
    """The engine as the server and the local sampler see it: add, step until nothing is left, cancel at any time."""

    context: int
    """Tokens that prompt and answer may have together."""
    vocabulary: int

    def add(self, request: Request) -> None:
        """Queue a request. Raises InputError for one that can never run (empty, too long, ids out of range)."""
        ...

    def cancel(self, name: str) -> None:
        """Drop a request; its last news comes with the next step. Unknown names are passed over."""
        ...

    def step(self) -> Sequence[News]:
        """Advance every running request by at most one token."""
        ...

    @property
    def usage(self) -> Usage:
        """As of the last step; may be asked by any thread."""
        ...

    @property
    def is_idle(self) -> bool:
        """Is there neither a running nor a waiting request?"""
        ...
