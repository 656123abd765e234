"""Asking a sampler for JSON that is read strictly: what cannot be read is asked again, with the reason, a few times.

Where the sampler keeps to a JSON schema, it is given one; one that refuses schemas is asked without, which the journal
remembers. One prompt that a sampler refuses (too long for its context) does not cost the others: it is found by halves
and named. A sampler that fails altogether ends the call; what it had answered is in its journal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from megaphi.conversation import Conversation, Message
from megaphi.errors import AffectsAll, InputError
from megaphi.generation.client.request_journal import RequestJournal, request_key
from megaphi.json_text import parse_json
from megaphi.sampling import Answer, Prompt, Sampler, Sampling

Read = TypeVar("Read")
LONGEST_REASON = 200
DOTS = " \t\r\n.…"
"""White space, and what stands for a text in the forms that prompts show; small models copy it."""
REFUSED = "the sampler refuses it"
CANCELLED = "it was cancelled"
"""Reason of a question whose answer a sampler cancelled; it is not asked again."""
ATTEMPTS = 3
"""Times that a question is asked at most, unless the caller says otherwise."""
PROBES = 3
"""Prompts with which a schema is tried before the sampler's error is taken for its own."""


@dataclass(frozen=True, slots=True)
class JsonQuestion(Generic[Read]):
    """A prompt whose answer is JSON, and how the value is read."""

    messages: tuple[Message, ...]
    read: Callable[[Any], Read]
    """Raises InputError that says what is wrong with a value, in words of ours only."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No answer that can be read, and why."""

    reason: str
    said: str = field(default="", compare=False)
    """The last answer, for people."""


def ask_json(
    sampler: Sampler,
    questions: Sequence[JsonQuestion[Read]],
    rules: Sampling,
    *,
    schema: Mapping[str, Any],
    attempts: int = ATTEMPTS,
    memory: RequestJournal | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Read | Unanswered]:
    """The values that the answers hold, in the order of the questions.

    Args:
        schema: of the answers, given to samplers that keep to schemas.
        attempts: times that a question is asked at most.
        memory: remembers whether this sampler takes schemas.
        seeds: one for each question in the place of the rules' seed.

    Raises:
        InputError: the sampler refuses everything, or the first questions.
        RunFailed: it does not answer.
    """
    if not questions:
        return []
    first = [Conversation(question.messages) for question in questions]
    rules = _with_schema(sampler, first, rules, json.dumps(schema), memory)
    found: dict[int, Read | Unanswered] = {}
    reasons: dict[int, str] = dict.fromkeys(range(len(questions)), "")
    said: dict[int, str] = {}
    for attempt in range(1, attempts + 1):
        numbers = list(reasons)
        prompts = [_prompt(questions[number], reasons[number], attempt, attempts) for number in numbers]
        chosen = None if seeds is None else [seeds[number] for number in numbers]
        for number, answers in zip(numbers, sample_each(sampler, prompts, rules, seeds=chosen), strict=True):
            if isinstance(answers, InputError) or answers[0].finish == "cancelled":
                refused = isinstance(answers, InputError)
                found[number] = Unanswered(f"{REFUSED}: {answers}"[:LONGEST_REASON] if refused else CANCELLED)
                del reasons[number]
                continue
            try:
                found[number] = questions[number].read(_value(answers[0], rules))
                del reasons[number]
            except InputError as error:
                reasons[number], said[number] = str(error)[:LONGEST_REASON], answers[0].text
        if not reasons:
            break
    unread = {
        number: Unanswered(f"{attempts} answers, the last one: {reason}", said[number])
        for number, reason in reasons.items()
    }
    return [(found | unread)[number] for number in range(len(questions))]


def sample_each(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    rules: Sampling,
    *,
    samples: int = 1,
    seeds: Sequence[int] | None = None,
) -> list[list[Answer] | InputError]:
    """`sampler.sample`, in which a prompt that is refused has its error in the place of its answers.

    Raises:
        InputError: the first and the last are refused with one message; or it is not about a prompt (`AffectsAll`), as
            a model that the server does not have, or a journal that cannot be written.
        RunFailed: the sampler does not answer.
    """
    if not prompts:
        return []
    ask = _Asking(sampler, prompts, rules, samples, seeds)
    try:
        return list(ask.between(0, len(prompts)))
    except AffectsAll:
        raise
    except InputError as error:
        if len(prompts) == 1:
            return [error]
        ends = [ask.by_halves(place, place + 1)[0] for place in (0, len(prompts) - 1)]
        if all(isinstance(end, InputError) for end in ends) and str(ends[0]) == str(ends[1]):
            raise error from None
        return [ends[0], *ask.by_halves(1, len(prompts) - 1), ends[1]]


@dataclass(frozen=True, slots=True)
class _Asking:
    """Prompts for one sampler, of which ranges are asked."""

    sampler: Sampler
    prompts: Sequence[Prompt]
    rules: Sampling
    samples: int
    seeds: Sequence[int] | None

    def between(self, start: int, stop: int) -> list[list[Answer]]:
        seeds = None if self.seeds is None else self.seeds[start:stop]
        chosen = {} if seeds is None else {"seeds": seeds}
        return self.sampler.sample(self.prompts[start:stop], self.rules, samples=self.samples, **chosen)

    def by_halves(self, start: int, stop: int) -> list[list[Answer] | InputError]:
        """The answers, with the errors of those prompts that are refused by themselves. Raises AffectsAll."""
        if start >= stop:
            return []
        try:
            return list(self.between(start, stop))
        except AffectsAll:
            raise
        except InputError as error:
            if stop - start == 1:
                return [error]
            half = (start + stop) // 2
            return [*self.by_halves(start, half), *self.by_halves(half, stop)]


def _with_schema(
    sampler: Sampler, prompts: Sequence[Conversation], rules: Sampling, schema: str, memory: RequestJournal | None
) -> Sampling:
    """The rules, with the schema if the sampler takes it."""
    kept = replace(rules, json_schema=schema)
    key = request_key(sampler.name, {"takes_schema": schema})
    known = memory.get(key) if memory is not None else None
    if known is None:
        known = _takes_schema(sampler, prompts, rules, kept)
        if memory is not None:
            memory.add(key, known)
    return kept if known else rules


def _takes_schema(sampler: Sampler, prompts: Sequence[Conversation], rules: Sampling, kept: Sampling) -> bool:
    """Raises InputError if the sampler takes neither, of several prompts."""
    for number, prompt in enumerate(prompts[:PROBES], start=1):
        try:
            sampler.sample([prompt], kept)
            return True
        except InputError:
            try:
                sampler.sample([prompt], rules)
                return False
            except InputError:
                if number == min(PROBES, len(prompts)):
                    raise
    return False


def _prompt(question: JsonQuestion[Any], reason: str, attempt: int, attempts: int) -> Conversation:
    if attempt == 1:
        return Conversation(question.messages)
    last = question.messages[-1]
    again = (
        f"{last.content}\n\nAttempt {attempt} of {attempts}: your last answer was refused. Reason: {reason}. "
        "Answer with one JSON object of the form above, and nothing else."
    )
    return Conversation((*question.messages[:-1], Message(last.role, again)))


def _value(answer: Answer, rules: Sampling) -> Any:
    if answer.finish == "length":
        raise InputError(f"it was cut off at {rules.max_tokens} tokens")
    try:
        return parse_json(answer.text.strip(), constants=False)
    except InputError as error:
        raise InputError(f"it is not JSON: {error}") from None


def fields_of(value: Any, names: Sequence[str]) -> dict[str, Any]:
    """`value` as an object with exactly these fields. Raises InputError, which quotes nothing of the value."""
    if not isinstance(value, dict):
        raise InputError("it is not a JSON object")
    missing = [name for name in names if name not in value]
    if missing:
        raise InputError(f"the field {missing[0]!r} is missing")
    if len(value) > len(names):
        raise InputError(f"it has more fields than {', '.join(names)}")
    return value


def text_of(value: Any, name: str, *, longest: int = 4_000) -> str:
    """A text that is not empty. Raises InputError."""
    if not isinstance(value, str) or not value.strip(DOTS):
        raise InputError(f"the field {name!r} must be a text that is not empty")
    if len(value) > longest:
        raise InputError(f"the field {name!r} is longer than {longest} characters")
    return value.strip()
