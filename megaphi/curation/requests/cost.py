"""The most that requests may cost: sums of requests, answers and tokens, before anything is asked.

Tokens are counted by a function of the caller; with one token for each byte a bound holds for every byte-level
tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from megaphi.curation.requests.asking import ATTEMPTS

RETRY_TOKENS = 600
"""More than the reason for which an answer is asked for again."""
CountTokens = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Cost:
    """Sums, at most."""

    requests: int = 0
    answers: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.requests + other.requests,
            self.answers + other.answers,
            self.prompt_tokens + other.prompt_tokens,
            self.answer_tokens + other.answer_tokens,
        )

    def __mul__(self, times: int) -> Cost:
        return Cost(self.requests * times, self.answers * times, self.prompt_tokens * times, self.answer_tokens * times)


def total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost())


def of_text(prompt_tokens: int, answer_tokens: int, *, samples: int = 1) -> Cost:
    return Cost(1, samples, prompt_tokens, samples * answer_tokens)


def of_value(prompt_tokens: int, answer_tokens: int, *, attempts: int = ATTEMPTS) -> Cost:
    """The cost of a value of JSON, which is asked for again until it can be read."""
    return of_text(prompt_tokens, answer_tokens) + of_text(prompt_tokens + RETRY_TOKENS, answer_tokens) * (attempts - 1)


def bytes_of(text: str) -> int:
    """The most tokens that a byte-level tokenizer makes of a text."""
    return len(text.encode("utf-8", "surrogatepass"))
