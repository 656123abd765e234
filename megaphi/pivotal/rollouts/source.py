"""The interface to whatever makes rollouts and scores: requests go in at any time, completions come out as they end.

Our engine and endpoints implement it. Nothing here knows questions: a request is token ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from megaphi.generation.decoding.generate import Completion
from megaphi.generation.decoding.interface import Request


class RolloutSource(Protocol):
    """Runs many requests at once."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Facts that its rollouts depend on: the model and its tokenizer. A store of other facts is refused."""
        ...

    @property
    def context(self) -> int | None:
        """The longest that a prompt and its continuation may be together, in tokens; None where it is not known."""
        ...

    @property
    def reason_without_probabilities(self) -> str:
        """Reason that requests may not be scored, nor a first token excluded; empty if they may."""
        ...

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; their names are unique among those that are open. Raises InputError."""
        ...

    def ended(self) -> list[tuple[str, Completion]]:
        """Wait until at least one open request has ended; returns those that have. Empty only if none is open.

        Raises RunFailed, InputError if a request cannot be completed.
        """
        ...
