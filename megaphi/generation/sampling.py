"""Which token comes next: greedy, or a draw from the distribution after temperature, top-k and top-p.

The order is that of Hugging Face: scale by temperature, keep the k likeliest, then the smallest set whose probability
reaches p (Holtzman et al. 2020). Every rank holds the same logits and the same generator, so all draw the same token.

Legend: B batch, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megaphi.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How to continue a text."""

    max_tokens: int = 128
    """Tokens to add at most; a stop token ends a text earlier."""
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    top_k: int = 0
    """Draw from the k likeliest tokens only; 0 means all."""
    top_p: float = 1.0
    """Draw from the smallest set of tokens with this much probability."""
    seed: int = 0

    def check(self) -> None:
        if self.max_tokens < 1:
            raise InputError(f"--max-tokens {self.max_tokens}: must be at least 1")
        if self.temperature < 0:
            raise InputError(f"--temperature {self.temperature}: must not be negative")
        if self.top_k < 0:
            raise InputError(f"--top-k {self.top_k}: must not be negative")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top-p {self.top_p}: must be above 0 and at most 1")


def next_tokens(logits_BV: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """One token id per row."""
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    kept_BV = keep_likely(logits_BV.double() / sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)
    return torch.multinomial(kept_BV.softmax(-1), 1, generator=generator).squeeze(-1)


def keep_likely(logits_BV: Tensor, *, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """The logits with everything outside top-k and top-p at minus infinity; the likeliest token always stays."""
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    if top_k:
        sorted_BV[..., top_k:] = -torch.inf
    if top_p < 1:
        probability_BV = sorted_BV.softmax(-1)
        before_BV = probability_BV.cumsum(-1) - probability_BV
        sorted_BV = sorted_BV.masked_fill(before_BV >= top_p, -torch.inf)
    return torch.empty_like(logits_BV).scatter(-1, order_BV, sorted_BV)
