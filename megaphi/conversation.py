"""A conversation, who said what, in order; and what goes on from one: rules of sampling, answers, and samplers.

Three roles exist, because phi-4 was trained with three: `system`, `user` and `assistant`. `from_plain` and `to_plain`
translate to and from the list of `{"role", "content"}` objects that the hub, chat servers and JSON lines use. A content
that happens to spell `<|im_end|>` is text like any other.

A `Sampler` is anything that continues conversations, texts or token ids: our own engine (`generation.local`) and every
server that speaks OpenAI's protocol (`generation.endpoint`) are used alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from megaphi.errors import InputError, did_you_mean

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. Raises `InputError` for a role that phi-4 does not know or a content that is not text."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            hint = did_you_mean(str(self.role), ROLES)
            raise InputError(f"unknown role {self.role!r}: use one of {', '.join(ROLES)}.{hint}")
        if not isinstance(self.content, str):
            raise InputError(f"the content of a message must be text, not {type(self.content).__name__}")


@dataclass(frozen=True, slots=True)
class Conversation:
    """At least one message, in the order they were said. Raises `InputError` when there is none."""

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple(self.messages))
        if not self.messages:
            raise InputError("a conversation needs at least one message")


def from_plain(messages: Sequence[Mapping[str, Any]]) -> Conversation:
    """Read the hub's `[{"role": …, "content": …}, …]`; `InputError` names the first bad message, counted from 1.

    Further keys that say nothing (`name: null`, `tool_calls: []`, `weight: 1`) are passed over, as column formats and
    servers fill them in; any other one is an error, because dropping, say, `tool_calls` would change what was said.
    `developer` is OpenAI's newer word for `system`; a content in parts stands for their joined text.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise InputError(f"a conversation must be a list of messages, not {type(messages).__name__}")
    return Conversation(tuple(_message_from_plain(message, number) for number, message in enumerate(messages, start=1)))


def to_plain(conversation: Conversation) -> list[dict[str, str]]:
    """The inverse of `from_plain`."""
    return [{"role": message.role, "content": message.content} for message in conversation.messages]


def _message_from_plain(plain: Mapping[str, Any], number: int) -> Message:
    if not isinstance(plain, Mapping):
        raise InputError(f"message {number} must be an object with role and content, not {type(plain).__name__}")
    missing = [key for key in ("role", "content") if key not in plain]
    if missing:
        raise InputError(f"message {number} has no {missing[0]!r}: it has {', '.join(map(repr, plain)) or 'no keys'}")
    unknown = [key for key, value in plain.items() if key not in ("role", "content") and not says_nothing(value, key)]
    if unknown:
        raise InputError(f"message {number} has an unknown key {unknown[0]!r}: only role and content are understood")
    role, content = plain["role"], plain["content"]
    try:
        text = "".join(map(_text_of_part, content)) if isinstance(content, list) else content
        return Message("system" if role == "developer" else role, text)
    except InputError as error:
        raise InputError(f"message {number}: {error}") from None


def says_nothing(value: Any, key: str) -> bool:
    """Whether a key with this value might as well not be there."""
    return value is None or value in ("", [], {}) or (key == "weight" and value == 1)


def _text_of_part(part: Any) -> str:
    if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise InputError('of a content in parts only {"type": "text", "text": …} is understood')
    known = ("type", "text", "prompt_cache_breakpoint")
    further = [key for key, value in part.items() if key not in known and not says_nothing(value, key)]
    if further:
        raise InputError(f"a part of a content has an unknown key {further[0]!r}: only type and text are understood")
    return part["text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How to continue a text. The order of the rules is Hugging Face's.

    That is: biases, penalties, temperature, top-k, top-p, min-p.
    """

    max_tokens: int = 128
    """Tokens to add at most; a stop token or stop text ends an answer earlier."""
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    top_k: int = 0
    """Draw from the k likeliest tokens only; 0 means all."""
    top_p: float = 1.0
    """Draw from the smallest set of tokens with this much probability."""
    min_p: float = 0.0
    """Leave out tokens less probable than this share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Divides positive logits, and multiplies negative ones, of tokens that prompt or answer hold already."""
    presence_penalty: float = 0.0
    """Taken once from the logits of tokens that the answer holds already."""
    frequency_penalty: float = 0.0
    """Taken from the logits of a token once for every time that the answer holds it."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, number added to its logit), before all other rules."""
    json_schema: str | None = None
    """A JSON schema, as JSON: no token is chosen that cannot lead to JSON of it."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; the answer's text ends before them."""
    seed: int = 0
    """The draw of a token depends on (seed, number of the sample, place in the answer) and on nothing else."""
    alternatives: int = 0
    """Most probable tokens to report beside each token, with their log-probabilities."""

    def check(self) -> None:
        """Raises InputError that names the field."""
        for name, value, holds, rule in (
            ("max_tokens", self.max_tokens, self.max_tokens >= 1, "must be at least 1"),
            ("temperature", self.temperature, 0 <= self.temperature <= 100, "must lie between 0 and 100"),
            ("top_k", self.top_k, self.top_k >= 0, "must not be negative"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "must be above 0 and at most 1"),
            ("min_p", self.min_p, 0 <= self.min_p <= 1, "must lie between 0 and 1"),
            ("repetition_penalty", self.repetition_penalty, 0 < self.repetition_penalty <= 100, "must be above 0"),
            ("presence_penalty", self.presence_penalty, abs(self.presence_penalty) <= 100, "must be finite"),
            ("frequency_penalty", self.frequency_penalty, abs(self.frequency_penalty) <= 100, "must be finite"),
            ("alternatives", self.alternatives, 0 <= self.alternatives <= 100, "must lie between 0 and 100"),
            ("logit_bias", "…", all(abs(bias) <= 100 for _, bias in self.logit_bias), "must lie between -100 and 100"),
            ("stop", self.stop, all(self.stop), "must not hold an empty text"),
        ):
            if not holds:
                raise InputError(f"{name}={value}: {rule}")


Finish = Literal["stop", "length", "cancelled"]
"""Why an answer ended: a stop token or text, its `max_tokens` (or the context), or somebody called it off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One continuation of one prompt."""

    tokens: tuple[int, ...]
    """Without the stop token; with all tokens of a stop text."""
    text: str
    """Decoded, and cut before a stop text."""
    log_probabilities: tuple[float, ...]
    """Of each token under the model itself: temperature 1, nothing left out. Empty where the source gives none."""
    alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()
    """At each place the most probable (token, log-probability), best first."""
    finish: Finish
    prompt_tokens: int


Prompt = Conversation | str | Sequence[int]
"""A conversation is rendered up to where the assistant begins; a text is encoded as it stands; ids are taken as ids."""


class Sampler(Protocol):
    """Whatever continues prompts."""

    name: str
    """Of the model, for records."""

    def sample(self, prompts: Sequence[Prompt], rules: Sampling, *, samples: int = 1) -> list[list[Answer]]:
        """`samples` answers to every prompt, in the order of the prompts. Raises InputError, RunFailed."""
        ...
