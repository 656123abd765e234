"""Continuing prompts: sampling parameters, answers, and the interface of everything that samples.

A `Sampler` continues conversations, texts or token ids: our own engine (`generation.local_sampler`) and every server
that speaks OpenAI's protocol (`generation.client.endpoint`) are used alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from megaphi.conversation import Conversation
from megaphi.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Rules for continuing a prompt, applied in Hugging Face's order.

    That is: biases, penalties, temperature, top-k, top-p, min-p.
    """

    max_tokens: int = 128
    """Tokens to add at most; a stop token or stop text ends an answer earlier."""
    temperature: float = 0.0
    """0 takes the top token each time."""
    top_k: int = 0
    """Draw from the k most probable tokens only; 0 means all."""
    top_p: float = 1.0
    """Draw from the smallest set of tokens with this much probability."""
    min_p: float = 0.0
    """Leave out tokens less probable than this share of the top token's probability."""
    repetition_penalty: float = 1.0
    """Divides positive logits, and multiplies negative ones, of tokens that prompt or answer contain already."""
    presence_penalty: float = 0.0
    """Subtracted once from the logits of tokens that the answer contains already."""
    frequency_penalty: float = 0.0
    """Subtracted from the logits of a token for every time that the answer contains it."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, number added to its logit), before all other rules."""
    json_schema: str | None = None
    """A JSON schema, as JSON: only tokens that can lead to valid JSON are chosen."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; the answer's text ends before them."""
    seed: int = 0
    """A draw depends on (seed, number of the sample, position in the answer) and on nothing else."""
    alternatives: int = 0
    """Top tokens to report at each position, with their log-probabilities."""

    def check(self) -> None:
        """Raises InputError that names the field."""
        for name, value, holds, rule in (
            ("max_tokens", self.max_tokens, self.max_tokens >= 1, "must be at least 1"),
            ("temperature", self.temperature, 0 <= self.temperature <= 100, "must lie between 0 and 100"),
            ("top_k", self.top_k, self.top_k >= 0, "must not be negative"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "must be above 0 and at most 1"),
            ("min_p", self.min_p, 0 <= self.min_p <= 1, "must lie between 0 and 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                0 < self.repetition_penalty <= 100,
                "must be above 0 and at most 100",
            ),
            (
                "presence_penalty",
                self.presence_penalty,
                abs(self.presence_penalty) <= 100,
                "must lie between -100 and 100",
            ),
            (
                "frequency_penalty",
                self.frequency_penalty,
                abs(self.frequency_penalty) <= 100,
                "must lie between -100 and 100",
            ),
            ("alternatives", self.alternatives, 0 <= self.alternatives <= 100, "must lie between 0 and 100"),
            ("logit_bias", "…", all(abs(bias) <= 100 for _, bias in self.logit_bias), "must lie between -100 and 100"),
            ("stop", self.stop, all(self.stop), "must not hold an empty text"),
        ):
            if not holds:
                raise InputError(f"{name}={value}: {rule}")


Finish = Literal["stop", "length", "cancelled", "excluded", "undefined"]
"""Reason an answer ended: a stop token or text, its `max_tokens` (or the context), it was cancelled, every token that
the rules leave for its first position was excluded, so that it has none, or the model's logits were no numbers, which
is an error everywhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One continuation of one prompt."""

    tokens: tuple[int, ...]
    """Without the stop token; with all tokens of a stop text."""
    text: str
    """Decoded, and cut before a stop text."""
    log_probabilities: tuple[float, ...]
    """One for each token, of the model itself: temperature 1, nothing left out. Empty where there are none."""
    alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()
    """The top (token, log-probability) pairs at each position, best first."""
    finish: Finish
    prompt_tokens: int


def plain_answer(answer: Answer) -> dict[str, Any]:
    """As JSON."""
    return asdict(answer)


def answer_from_plain(plain: dict[str, Any]) -> Answer:
    """The inverse of `plain_answer`, after JSON."""
    return Answer(
        tokens=tuple(plain["tokens"]),
        text=plain["text"],
        log_probabilities=tuple(plain["log_probabilities"]),
        alternatives=tuple(
            tuple((token, value) for token, value in alternatives) for alternatives in plain["alternatives"]
        ),
        finish=plain["finish"],
        prompt_tokens=plain["prompt_tokens"],
    )


Prompt = Conversation | str | Sequence[int]
"""A conversation is rendered up to where the assistant begins; a text is encoded and ids are used as they are.
"""


class Sampler(Protocol):
    """Anything that continues prompts."""

    name: str
    """Name of the model, for records."""

    def sample(
        self, prompts: Sequence[Prompt], rules: Sampling, *, samples: int = 1, seeds: Sequence[int] | None = None
    ) -> list[list[Answer]]:
        """`samples` answers to every prompt, in the order of the prompts.

        Args:
            seeds: one for each prompt in the place of the rules' seed. Draws of prompts with one seed are not
                independent: they use the same random number at the same position.

        Raises:
            InputError: the rules or a prompt are refused.
            RunFailed: the model does not answer.
        """
        ...
