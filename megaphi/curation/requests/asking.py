"""Requests for texts or values of JSON, each of which is found or missed with a reason that is counted.

Reasons: `budget` (the tokens are spent), `refused` (by the sampler, as a prompt that is too long), `cut_off` (at the
most tokens of an answer), `empty`, `unreadable` (no answer, after all attempts, has the form that was asked for).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from megaphi.conversation import Conversation
from megaphi.curation.requests.metered import MeteredSampler
from megaphi.errors import AffectsAll, InputError
from megaphi.generation.client.request_journal import RequestJournal
from megaphi.judging.asking import CANCELLED, REFUSED, JsonQuestion, Unanswered, ask_json, sample_each
from megaphi.sampling import Answer, Sampling

ATTEMPTS = 3
"""Times that a value of JSON is asked for at most, unless the step says otherwise."""
Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Missed:
    """Nothing that can be used, and why."""

    reason: str
    detail: str = ""
    said: str = field(default="", compare=False)
    """The answer that could not be used, for people."""


def ask_texts(
    sampler: MeteredSampler, prompts: Sequence[Conversation], rules: Sampling, *, seeds: Sequence[int]
) -> list[str | Missed]:
    """One whole text for each prompt, in order. Raises RunFailed, AffectsAll."""
    return [
        found if isinstance(found, Missed) else _text(found[0], rules)
        for found in _answers(sampler, prompts, rules, samples=1, seeds=seeds)
    ]


def ask_several(
    sampler: MeteredSampler, prompts: Sequence[Conversation], rules: Sampling, *, samples: int, seeds: Sequence[int]
) -> list[list[str | Missed] | Missed]:
    """Independent texts for each prompt, in order. Raises RunFailed, AffectsAll."""
    return [
        found if isinstance(found, Missed) else [_text(answer, rules) for answer in found]
        for found in _answers(sampler, prompts, rules, samples=samples, seeds=seeds)
    ]


def ask_values(
    sampler: MeteredSampler,
    questions: Sequence[JsonQuestion[Read]],
    rules: Sampling,
    *,
    schema: Mapping[str, Any],
    memory: RequestJournal,
    seeds: Sequence[int],
    attempts: int = ATTEMPTS,
) -> list[Read | Missed]:
    """The value that each answer holds, in order. Raises RunFailed, AffectsAll."""
    try:
        found = ask_json(sampler, questions, rules, schema=schema, attempts=attempts, memory=memory, seeds=seeds)
    except AffectsAll:
        raise
    except InputError as error:  # every prompt is refused
        return [Missed("refused", str(error))] * len(questions)
    return [_missed(one) if isinstance(one, Unanswered) else one for one in found]


def _answers(
    sampler: MeteredSampler, prompts: Sequence[Conversation], rules: Sampling, *, samples: int, seeds: Sequence[int]
) -> list[list[Answer] | Missed]:
    try:
        found = sample_each(sampler, prompts, rules, samples=samples, seeds=seeds)
    except AffectsAll:
        raise
    except InputError as error:
        return [Missed("refused", str(error))] * len(prompts)
    return [_usable(answers) for answers in found]


def _usable(answers: list[Answer] | InputError) -> list[Answer] | Missed:
    if isinstance(answers, InputError):
        return Missed("refused", str(answers))
    return Missed("budget") if any(answer.finish == "cancelled" for answer in answers) else answers


def _text(answer: Answer, rules: Sampling) -> str | Missed:
    if answer.finish == "length":
        return Missed("cut_off", f"at {rules.max_tokens:,} tokens", answer.text.strip())
    return answer.text.strip() or Missed("empty")


def _missed(one: Unanswered) -> Missed:
    if one.reason == CANCELLED:
        return Missed("budget")
    return Missed("refused" if one.reason.startswith(REFUSED) else "unreadable", one.reason, one.said)
