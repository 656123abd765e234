"""A conversation: who said what, in order.

Three roles exist, because phi-4 was trained with three: `system`, `user` and `assistant`. `from_plain` and `to_plain`
translate to and from the list of `{"role", "content"}` objects that the hub, chat servers and JSON lines use. A content
that happens to spell `<|im_end|>` is text like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

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
    """Return whether a key with this value means the same as its absence."""
    return value is None or value in ("", [], {}) or (key == "weight" and value == 1)


def _text_of_part(part: Any) -> str:
    if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise InputError('of a content in parts only {"type": "text", "text": …} is understood')
    known = ("type", "text", "prompt_cache_breakpoint")
    further = [key for key, value in part.items() if key not in known and not says_nothing(value, key)]
    if further:
        raise InputError(f"a part of a content has an unknown key {further[0]!r}: only type and text are understood")
    return part["text"]
