"""All fields of OpenAI's requests, and those of vLLM that its clients send: each is honoured or refused by name.

A field that is not implemented is accepted at values that have no effect (`store: false`, `tools: []`), which are
listed here; any other value is an error. Fields that only describe a request or its caching are accepted at any value.
A test compares the lists with the official client's types, so that fields that OpenAI adds are noticed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from megaphi.errors import did_you_mean, shortened

Kind = Literal["completion", "chat"]

SHARED_FIELDS = (
    "model n max_tokens temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty logit_bias "
    "response_format seed stop stop_token_ids ignore_eos stream stream_options logprobs return_token_ids "
    "return_tokens_as_token_ids"
).split()
HONOURED: dict[Kind, frozenset[str]] = {
    "completion": frozenset([*SHARED_FIELDS, "prompt", "best_of", "echo"]),
    "chat": frozenset([*SHARED_FIELDS, "messages", "max_completion_tokens", "top_logprobs"]),
}


LONGEST_ECHO, LONGEST_REASON = 100, 1000
"""Characters of an error's field and message: what a client sent comes back only so far."""


class ApiError(Exception):
    """An error response: HTTP status, OpenAI's type and code, and the field at fault; printable, and cut if long."""

    def __init__(self, status: int, message: str, *, field: str | None = None, code: str | None = None) -> None:
        self.status = status
        self.message = shown(message, LONGEST_REASON)
        self.field = None if field is None else shown(field, LONGEST_ECHO)
        self.code = code
        super().__init__(self.message)


def shown(text: str, most: int) -> str:
    """A text, cut to `most` characters, with escapes for what is not printable."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in shortened(text, most))


class Only:
    """Make a test for one of a few values; booleans are not numbers."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __call__(self, value: Any) -> bool:
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in self.values)


def text(value: Any) -> bool:
    return isinstance(value, str)


def table(value: Any) -> bool:
    return isinstance(value, dict)


def switch(value: Any) -> bool:
    return isinstance(value, bool)


nothing = Only()
NEUTRAL_SHARED: dict[str, Callable[[Any], bool]] = {
    "user": text,
    # vLLM's
    "min_tokens": Only(0),
    "skip_special_tokens": Only(False),
    "spaces_between_special_tokens": switch,
    "include_stop_str_in_output": Only(False),
    "use_beam_search": Only(False),
    "length_penalty": Only(1),
    "add_special_tokens": Only(False),
    "truncate_prompt_tokens": nothing,
    "prompt_logprobs": nothing,
    "allowed_token_ids": nothing,
    "bad_words": Only([]),
    "logits_processors": Only([]),
    "priority": Only(0),
    "structured_outputs": nothing,
}
NEUTRAL: dict[Kind, dict[str, Callable[[Any], bool]]] = {
    "completion": {
        **NEUTRAL_SHARED,
        "suffix": Only(""),
    },
    "chat": {
        **NEUTRAL_SHARED,
        "audio": nothing,
        "function_call": Only("none", "auto"),
        "functions": Only([]),
        "metadata": table,
        "modalities": Only(["text"]),
        "moderation": nothing,
        "parallel_tool_calls": switch,
        "prediction": nothing,
        "prompt_cache_key": text,
        "prompt_cache_options": table,
        "prompt_cache_retention": text,
        "reasoning_effort": Only("none"),
        "safety_identifier": text,
        "service_tier": Only("auto", "default"),
        "store": Only(False),
        "tool_choice": Only("none", "auto"),
        "tools": Only([]),
        "verbosity": Only("medium"),
        "web_search_options": nothing,
        # vLLM's
        "add_generation_prompt": Only(True),
        "best_of": Only(1),
        "chat_template": nothing,
        "chat_template_kwargs": Only({}),
        "continue_final_message": Only(False),
        "documents": Only([]),
        "echo": Only(False),
        "include_reasoning": switch,
    },
}
"""Fields that are not implemented -> test for values that have no effect."""


def check_fields(plain: Mapping[str, Any], kind: Kind) -> None:
    """Refuse unknown fields and unsupported values. Raises ApiError (400) for the first."""
    for name, value in plain.items():
        asks_for_nothing = NEUTRAL[kind].get(name)
        if asks_for_nothing is not None and not asks_for_nothing(value):
            raise ApiError(400, _refusal(name, asks_for_nothing), field=name, code="unsupported_parameter")
        if asks_for_nothing is None and name not in HONOURED[kind]:
            hint = did_you_mean(name, HONOURED[kind])
            raise ApiError(400, f"unknown field {name!r}.{hint}", field=name, code="unknown_parameter")


def _refusal(name: str, asks_for_nothing: Callable[[Any], bool]) -> str:
    kinds: dict[Any, str] = {text: "must be a text", table: "must be an object", switch: "must be true or false"}
    if asks_for_nothing in kinds:
        return f"{name} {kinds[asks_for_nothing]}"
    taken = asks_for_nothing.values if isinstance(asks_for_nothing, Only) else ()
    return f"{name} is not supported: leave it out{''.join(f', or send {json.dumps(value)}' for value in taken)}"
