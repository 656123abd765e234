"""The sampled answer that is searched: its tokens, their probabilities, and whether it succeeded.

Positions count tokens of the answer: position i stands before tokens[i], so position 0 is the bare prompt and position
`len(tokens)` the whole answer, whose outcome is known and needs no rollout.
"""

from __future__ import annotations

from dataclasses import dataclass

from megaphi.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One answer T = t_1..t_L to one prompt Q, as token ids; never decoded text."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    """With the stop token, so that nothing is left to chance after the last one."""
    probabilities: tuple[float, ...]
    """S(t_i | Q, t_<i) under the sampling rules of the rollouts, one for each token; empty where they are unknown."""
    success: bool
    """The oracle's verdict on the whole answer."""

    def __post_init__(self) -> None:
        if not self.tokens:
            raise InputError("a trace without tokens: there is nothing to search; leave such answers out")
        if self.probabilities and len(self.probabilities) != len(self.tokens):
            raise InputError(
                f"a trace of {len(self.tokens)} tokens with {len(self.probabilities)} probabilities: "
                "give one for each token, or none"
            )
        for position, probability in enumerate(self.probabilities):
            if not 0 < probability <= 1:
                raise InputError(
                    f"probabilities[{position}]={probability} of a trace: a token that was sampled has a probability "
                    "above 0 and at most 1; score the answer under the sampling rules that it was drawn with"
                )

    @property
    def has_probabilities(self) -> bool:
        return bool(self.probabilities)
