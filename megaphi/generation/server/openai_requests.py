"""Parsing of requests in OpenAI's protocol: a body is checked field by field and becomes prompts and sampling rules.

Nothing is silently ignored. An unknown field is an error that suggests the nearest known name; a known field that is
not implemented is refused by name, unless its value has no effect (`openai_fields.py`). `null` counts as absent, as
clients mean it. In addition to OpenAI's fields there are those of vLLM that other servers share: `top_k`, `min_p`,
`repetition_penalty`, `stop_token_ids`, `ignore_eos`, `return_token_ids` and `return_tokens_as_token_ids`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megaphi.conversation import from_plain
from megaphi.errors import InputError, did_you_mean
from megaphi.generation.decoding.json_constraint import ANY_OBJECT
from megaphi.generation.server.openai_fields import ApiError, Kind, check_fields
from megaphi.json_text import parse_json
from megaphi.sampling import Prompt, Sampling

LARGEST_SEED = 2**63 - 1
MOST_SAMPLES, MOST_ALTERNATIVES, MOST_STOPS, LONGEST_STOP = 128, 20, 16, 1000
MOST_BIASES, MOST_STOP_TOKENS, MOST_MESSAGES, LONGEST_SCHEMA = 1024, 1024, 4096, 2**16
"""Each step looks at biases and stops again; a schema is counted in bytes."""
DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default for completions; a chat answer may fill the context."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiRequest:
    """A valid request body."""

    kind: Kind
    model: str | None
    prompts: tuple[Prompt, ...]
    samples: int
    echo: bool
    """True if answers begin with their prompts."""
    continues: bool
    """False for an echo with `max_tokens: 0`."""
    sampling: Sampling
    stop_tokens: frozenset[int]
    """Stop tokens in addition to the model's."""
    ignores_end: bool
    """True if the model's own stop tokens do not end an answer."""
    stream: bool
    include_usage: bool
    log_probabilities: bool
    token_ids: bool
    """Add `token_ids` and `prompt_token_ids` to the answer."""
    tokens_as_ids: bool
    """Name tokens in log-probabilities `token_id:7`, because two tokens may have the same text."""


def read_request(body: bytes, kind: Kind, *, context: int) -> ApiRequest:
    """Parse and check a body. Raises ApiError (400), which names the field."""
    fields = _Fields(_parse(body))
    check_fields(fields.plain, kind)
    streams = fields.boolean("stream")
    echo = kind == "completion" and fields.boolean("echo")
    counts, alternatives = _log_probabilities(fields, kind)
    return ApiRequest(
        kind=kind,
        model=fields.text("model"),
        prompts=_prompts(fields) if kind == "completion" else (_conversation(fields),),
        samples=_samples(fields),
        echo=echo,
        continues=not (echo and fields.plain.get("max_tokens") == 0),
        sampling=_sampling(fields, kind, context=context, alternatives=alternatives),
        stop_tokens=_stop_tokens(fields),
        ignores_end=_ignores_end(fields),
        stream=streams,
        include_usage=_include_usage(fields, streams=streams),
        log_probabilities=counts,
        token_ids=fields.boolean("return_token_ids"),
        tokens_as_ids=fields.boolean("return_tokens_as_token_ids"),
    )


def _parse(body: bytes) -> dict[str, Any]:
    try:
        plain = parse_json(body, constants=False)
    except InputError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(plain, dict):
        raise ApiError(400, f"the body must be a JSON object, not {_kind_of(plain)}")
    return {name: value for name, value in plain.items() if value is not None}


class _Fields:
    """Typed access to the fields of a body; every error names its field."""

    def __init__(self, plain: dict[str, Any]) -> None:
        self.plain = plain

    def boolean(self, name: str) -> bool:
        value = self.plain.get(name, False)
        if not isinstance(value, bool):
            raise _wrong(name, value, "true or false")
        return value

    def text(self, name: str) -> str | None:
        value = self.plain.get(name)
        if value is not None and not isinstance(value, str):
            raise _wrong(name, value, "a text")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.plain.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong(name, value, "a number")
        try:
            return float(value)
        except OverflowError:
            raise _wrong(name, value, "a number that a float can hold") from None

    def integer(self, name: str, default: int, *, smallest: int, largest: int) -> int:
        value = self.plain.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong(name, value, "an integer")
        if not smallest <= value <= largest:
            rule = f"at least {smallest}" if value < smallest else f"at most {largest}"
            raise ApiError(400, f"{name} must be {rule}", field=name)
        return value


def _wrong(name: str, value: Any, expected: str) -> ApiError:
    return ApiError(400, f"{name} must be {expected}, not {_kind_of(value)}", field=name)


def _kind_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", int: "an integer", float: "a number"}
    return names.get(type(value), "null")


def _sampling(fields: _Fields, kind: Kind, *, context: int, alternatives: int) -> Sampling:
    sampling = Sampling(
        max_tokens=_max_tokens(fields, kind, context=context),
        temperature=fields.number("temperature", 1.0),
        top_k=max(0, fields.integer("top_k", 0, smallest=-1, largest=2**31 - 1)),  # vLLM's -1 is all, too
        top_p=fields.number("top_p", 1.0),
        min_p=fields.number("min_p", 0.0),
        repetition_penalty=fields.number("repetition_penalty", 1.0),
        presence_penalty=fields.number("presence_penalty", 0.0),
        frequency_penalty=fields.number("frequency_penalty", 0.0),
        logit_bias=_logit_bias(fields),
        json_schema=_json_schema(fields),
        stop=_stop(fields),
        seed=fields.integer("seed", secrets.randbelow(2**31), smallest=0, largest=LARGEST_SEED),
        alternatives=alternatives,
    )
    try:
        sampling.check()
    except InputError as error:
        raise ApiError(400, str(error), field=str(error).partition("=")[0]) from None
    return sampling


def _samples(fields: _Fields) -> int:
    """Accept `best_of` only if there is nothing to choose: as many samples as are returned."""
    samples = fields.integer("n", 1, smallest=1, largest=MOST_SAMPLES)
    if fields.integer("best_of", samples, smallest=1, largest=MOST_SAMPLES) != samples:
        message = f"best_of is not supported: leave it out, or send n={samples} as best_of"
        raise ApiError(400, message, field="best_of", code="unsupported_parameter")
    return samples


def _max_tokens(fields: _Fields, kind: Kind, *, context: int) -> int:
    """The largest number of new tokens; of chat's two names the newer wins, and values are cut to the context.

    For an echo alone, with 0, the value is not used (`ApiRequest.continues`).
    """
    names = ("max_completion_tokens", "max_tokens") if kind == "chat" else ("max_tokens",)
    default = context if kind == "chat" else DEFAULT_COMPLETION_TOKENS
    smallest = 0 if kind == "completion" and fields.boolean("echo") else 1
    given = [fields.integer(name, 1, smallest=smallest, largest=2**31 - 1) for name in names if name in fields.plain]
    return max(1, min([*given, default][0], context))


def _stop(fields: _Fields) -> tuple[str, ...]:
    stop = fields.plain.get("stop", [])
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _wrong("stop", stop, "a text or a list of texts")
    if len(texts) > MOST_STOPS or not all(0 < len(text) <= LONGEST_STOP for text in texts):
        message = f"stop takes at most {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters"
        raise ApiError(400, message, field="stop")
    return tuple(texts)


def _stop_tokens(fields: _Fields) -> frozenset[int]:
    ids = fields.plain.get("stop_token_ids", [])
    if not isinstance(ids, list) or not _are_ids(ids):
        raise _wrong("stop_token_ids", ids, "a list of token ids")
    _check_count("stop_token_ids", len(ids), MOST_STOP_TOKENS)
    return frozenset(ids)


def _ignores_end(fields: _Fields) -> bool:
    ignores = fields.boolean("ignore_eos")
    if ignores and _json_schema(fields) is not None:
        message = "ignore_eos: an answer that must be JSON ends where its JSON does: leave one of the two out"
        raise ApiError(400, message, field="ignore_eos")
    return ignores


def _logit_bias(fields: _Fields) -> tuple[tuple[int, float], ...]:
    """AnswerToken ids as keys, which JSON makes texts; a number from -100 to 100 for each."""
    plain = fields.plain.get("logit_bias", {})
    if not isinstance(plain, dict):
        raise _wrong("logit_bias", plain, "an object")
    _check_count("logit_bias", len(plain), MOST_BIASES)
    biases = []
    for key, bias in plain.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and str(int(key)) == key):
            raise ApiError(400, f"logit_bias: the key {key[:40]!r} is not a token id", field="logit_bias")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            message = f"logit_bias: the bias of token {key} must be a number from -100 to 100"
            raise ApiError(400, message, field="logit_bias")
        biases.append((int(key), float(bias)))
    return tuple(biases)


def _json_schema(fields: _Fields) -> str | None:
    """The JSON schema of `response_format`, as text."""
    plain = fields.plain.get("response_format", {"type": "text"})
    if not isinstance(plain, dict):
        raise _wrong("response_format", plain, "an object")
    kind = plain.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        message = f"response_format.type {kind!r} is not supported: use text, json_object or json_schema"
        raise ApiError(400, message, field="response_format", code="unsupported_parameter")
    _refuse_further(plain, ("type", "json_schema") if kind == "json_schema" else ("type",), "response_format")
    if kind != "json_schema":
        return ANY_OBJECT if kind == "json_object" else None
    named = plain.get("json_schema")
    if not isinstance(named, dict) or not isinstance(named.get("schema"), dict):
        message = "response_format.json_schema.schema is missing: a JSON schema, which is an object"
        raise ApiError(400, message, field="response_format")
    _refuse_further(named, ("name", "description", "schema", "strict"), "response_format.json_schema")
    schema = json.dumps(named["schema"])
    _check_count("response_format", len(schema), LONGEST_SCHEMA, of="bytes of a schema")
    return schema


def _check_count(name: str, count: int, most: int, *, of: str = "entries") -> None:
    if count > most:
        raise ApiError(400, f"{name} has {count} {of}: at most {most} are taken", field=name)


def _refuse_further(plain: dict[str, Any], known: Sequence[str], where: str) -> None:
    for name, value in plain.items():
        if name not in known and value is not None:
            hint = did_you_mean(name, known)
            raise ApiError(400, f"unknown field '{where}.{name}'.{hint}", field=where.partition(".")[0])


def _log_probabilities(fields: _Fields, kind: Kind) -> tuple[bool, int]:
    """(log-probabilities requested, alternatives): one number in completions, a flag and a number in chat."""
    if kind == "completion":
        if fields.plain.get("logprobs") is False:  # of a client that thinks of chat's switch
            return False, 0
        wanted = "logprobs" in fields.plain
        return wanted, fields.integer("logprobs", 0, smallest=0, largest=MOST_ALTERNATIVES)
    wanted = fields.boolean("logprobs")
    alternatives = fields.integer("top_logprobs", 0, smallest=0, largest=MOST_ALTERNATIVES)
    if alternatives and not wanted:
        raise ApiError(400, "top_logprobs needs logprobs: true", field="top_logprobs")
    return wanted, alternatives


def _include_usage(fields: _Fields, *, streams: bool) -> bool:
    options = fields.plain.get("stream_options", {})
    if not isinstance(options, dict):
        raise _wrong("stream_options", options, "an object")
    for name, value in options.items():
        if name not in ("include_usage", "include_obfuscation"):
            hint = did_you_mean(name, ("include_usage",))
            raise ApiError(400, f"unknown field 'stream_options.{name}'.{hint}", field=f"stream_options.{name}")
        if not isinstance(value, bool | None):
            raise _wrong(f"stream_options.{name}", value, "true or false")
        if value and not streams:
            raise ApiError(400, f"stream_options.{name} needs stream: true", field="stream_options")
        if value and name == "include_obfuscation":
            message = "stream_options.include_obfuscation is not supported: leave it out, or send false"
            raise ApiError(400, message, field="stream_options", code="unsupported_parameter")
    return bool(options.get("include_usage"))


def _prompts(fields: _Fields) -> tuple[Prompt, ...]:
    """`prompt`: a text, token ids, or a list of either."""
    prompt = fields.plain.get("prompt")
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt, list) and prompt:
        if _are_ids(prompt):
            return (tuple(prompt),)
        if all(isinstance(one, str) for one in prompt):
            return tuple(prompt)
        if all(isinstance(one, list) and _are_ids(one) for one in prompt):
            return tuple(tuple(one) for one in prompt)
    message = "prompt must be a text, a list of token ids, or a list of texts or of lists of token ids, and not empty"
    raise ApiError(400, message, field="prompt")


def _are_ids(values: list[Any]) -> bool:
    return all(type(value) is int for value in values)


def _conversation(fields: _Fields) -> Prompt:
    if "messages" not in fields.plain:
        raise ApiError(400, "messages is missing: a list of objects with role and content", field="messages")
    messages = fields.plain["messages"]
    if isinstance(messages, list):
        _check_count("messages", len(messages), MOST_MESSAGES, of="messages")
    try:
        return from_plain(messages)
    except InputError as error:
        raise ApiError(400, f"messages: {error}", field="messages") from None
