"""Every field of the official client's requests and of vLLM's: neutral values are taken, others refused by name."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import pytest
from openai.types import completion_create_params
from openai.types.chat import chat_completion_stream_options_param
from openai.types.chat import completion_create_params as chat_create_params

from megaphi.generation.server.openai_fields import HONOURED, NEUTRAL
from tests.generation.server.fake_generator import FakeGenerator
from tests.generation.server.served import ask, served

PATHS = {"completion": "completions", "chat": "chat/completions"}
SMALLEST = {
    "completion": {"prompt": "a", "seed": 1, "max_tokens": 3},
    "chat": {"messages": [{"role": "user", "content": "hi"}], "seed": 1, "max_tokens": 3},
}
TYPES = {
    "completion": completion_create_params.CompletionCreateParamsNonStreaming,
    "chat": chat_create_params.CompletionCreateParamsNonStreaming,
}
BOTH = {
    "model": ["tiny"],
    "n": [1],
    "stream": [False],
    "stream_options": [{}, {"include_usage": False}, {"include_usage": None, "include_obfuscation": False}],
    "temperature": [1, 1.0],
    "top_p": [1],
    "presence_penalty": [0],
    "frequency_penalty": [0, 0.0],
    "stop": [[]],
    "user": ["me"],
    "logit_bias": [{}],
    "best_of": [1],
    "echo": [False],
    "logprobs": [False],
    # vLLM's
    "top_k": [0, -1],
    "min_p": [0],
    "repetition_penalty": [1],
    "min_tokens": [0],
    "stop_token_ids": [[]],
    "ignore_eos": [False],
    "skip_special_tokens": [False],
    "spaces_between_special_tokens": [True, False],
    "include_stop_str_in_output": [False],
    "use_beam_search": [False],
    "length_penalty": [1, 1.0],
    "add_special_tokens": [False],
    "bad_words": [[]],
    "priority": [0],
    "response_format": [{"type": "text"}],
    "a field of another server": [None],
}
CHANGES_NOTHING = {
    "completion": {**BOTH, "suffix": [""], "prompt": ["a"], "seed": [1], "max_tokens": [3]},
    "chat": {
        **BOTH,
        "top_logprobs": [0],
        "max_completion_tokens": [3],
        "metadata": [{}, {"run": "7"}],
        "modalities": [["text"]],
        "parallel_tool_calls": [True, False],
        "tools": [[]],
        "tool_choice": ["none", "auto"],
        "functions": [[]],
        "function_call": ["none", "auto"],
        "store": [False],
        "service_tier": ["auto", "default"],
        "reasoning_effort": ["none"],
        "verbosity": ["medium"],
        "prompt_cache_key": ["k"],
        "prompt_cache_options": [{"mode": "implicit"}],
        "prompt_cache_retention": ["in_memory", "24h"],
        "safety_identifier": ["k"],
        "add_generation_prompt": [True],
        "continue_final_message": [False],
        "chat_template_kwargs": [{}],
    },
}
ASKS_FOR_MORE = {
    "completion": {"suffix": "end", "best_of": 3, "use_beam_search": True, "min_tokens": 2, "prompt_logprobs": 1},
    "chat": {
        "audio": {"voice": "alloy", "format": "wav"},
        "modalities": ["text", "audio"],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "required",
        "functions": [{"name": "f"}],
        "function_call": {"name": "f"},
        "store": True,
        "store ": False,
        "service_tier": "flex",
        "reasoning_effort": "low",
        "verbosity": "high",
        "prediction": {"type": "content", "content": "a"},
        "web_search_options": {},
        "moderation": {"model": "m"},
        "parallel_tool_calls": 1,
        "add_generation_prompt": False,
        "continue_final_message": True,
        "skip_special_tokens": True,
        "chat_template": "{{ x }}",
        "length_penalty": 2,
        "priority": True,
        "metadata": "x",
        "user": 7,
        "allowed_token_ids": [1],
        "echo": True,
    },
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(FakeGenerator()) as (url, _):
        yield url


@pytest.mark.parametrize("kind", PATHS)
def test_every_field_of_the_official_client_is_known(kind):
    """A field that is new in OpenAI's protocol stops here, until it is honoured, or listed with its neutral values."""
    fields = set(typing.get_type_hints(TYPES[kind]))
    assert len(fields) > 15
    assert fields <= HONOURED[kind] | set(NEUTRAL[kind])
    assert not HONOURED[kind] & set(NEUTRAL[kind])
    stream_options = chat_completion_stream_options_param.ChatCompletionStreamOptionsParam
    assert set(typing.get_type_hints(stream_options)) == {"include_usage", "include_obfuscation"}


@pytest.mark.parametrize("kind", PATHS)
def test_values_that_ask_for_nothing_change_nothing(url, kind):
    plain = ask(f"{url}/v1/{PATHS[kind]}", SMALLEST[kind]).body["choices"]
    for field, values in CHANGES_NOTHING[kind].items():
        for value in values:
            reply = ask(f"{url}/v1/{PATHS[kind]}", SMALLEST[kind] | {field: value})
            assert (reply.status, reply.body.get("choices")) == (200, plain), (field, value, reply.body)


@pytest.mark.parametrize("kind", PATHS)
def test_null_is_taken_for_every_field_but_the_prompt(url, kind):
    fields = (HONOURED[kind] | set(NEUTRAL[kind])) - {"prompt", "messages"}
    body = SMALLEST[kind] | dict.fromkeys(fields)
    assert ask(f"{url}/v1/{PATHS[kind]}", body).status == 200


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind in PATHS for field in ASKS_FOR_MORE[kind]])
def test_values_that_ask_for_what_is_not_done_are_refused_by_name(url, kind, field):
    reply = ask(f"{url}/v1/{PATHS[kind]}", SMALLEST[kind] | {field: ASKS_FOR_MORE[kind][field]})
    assert (reply.status, reply.error["param"]) == (400, field)
    assert field in reply.error["message"]
    assert reply.error["type"] == "invalid_request_error"


def test_obfuscation_that_is_asked_for_is_not_left_out_in_silence(url):
    body = SMALLEST["chat"] | {"stream": True, "stream_options": {"include_obfuscation": True}}
    assert ask(f"{url}/v1/chat/completions", body).error["code"] == "unsupported_parameter"


NEUTRAL_MESSAGES = [
    {"role": "user", "content": "hi", "name": None},
    {"role": "user", "content": "hi", "tool_calls": [], "refusal": None, "annotations": [], "audio": None},
    {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
    {"role": "user", "content": [{"type": "text", "text": "hi", "prompt_cache_breakpoint": {"mode": "explicit"}}]},
]
MEANT_MESSAGES = [
    ({"role": "user", "content": "hi", "name": "Ann"}, "'name'"),
    ({"role": "assistant", "content": "hi", "tool_calls": [{"id": "1"}]}, "'tool_calls'"),
    ({"role": "assistant", "content": "hi", "refusal": "no"}, "'refusal'"),
    ({"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "x"}}]}, "'cache_control'"),
    ({"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}, "only"),
    ({"role": "user", "content": None}, "content"),
]


def test_messages_with_neutral_fields_say_the_same(url):
    plain = ask(f"{url}/v1/chat/completions", SMALLEST["chat"]).body["choices"]
    for message in NEUTRAL_MESSAGES:
        body = SMALLEST["chat"] | {"messages": [message]}
        assert ask(f"{url}/v1/chat/completions", body).body["choices"] == plain, message
    system, developer = (
        ask(f"{url}/v1/chat/completions", SMALLEST["chat"] | {"messages": [{"role": role, "content": "Be brief."}]})
        for role in ("system", "developer")
    )
    assert developer.body["choices"] == system.body["choices"] != plain


@pytest.mark.parametrize(("message", "named"), MEANT_MESSAGES, ids=[named for _, named in MEANT_MESSAGES])
def test_fields_of_messages_that_say_something_are_refused(url, message, named):
    reply = ask(f"{url}/v1/chat/completions", SMALLEST["chat"] | {"messages": [message]})
    assert (reply.status, reply.error["param"]) == (400, "messages")
    assert named in reply.error["message"]
