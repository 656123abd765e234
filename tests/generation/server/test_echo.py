"""`echo` of completions: the prompt before its answers, with what the model thinks of it, for programs that score."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import openai
import pytest

from megaphi.sampling import Sampling
from tests.generation.server.fake_generator import FakeGenerator, expected_tokens, log_probability
from tests.generation.server.served import ask, served, tokenizer

FIELDS = {"max_tokens": 4, "temperature": 0.8, "seed": 11}
RULES = Sampling(max_tokens=4, temperature=0.8, seed=11)
PROMPTS: list[Any] = ["Once upon a time 👋", [5, 7, 9, 2000], ["one", "two and", "one"], [[5], [7, 9]]]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(FakeGenerator(slots=3)) as (url, _):
        yield url


def ids_of(prompt: Any) -> list[list[int]]:
    several = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    return [tokenizer().encode(one) if isinstance(one, str) else one for one in several]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", PROMPTS, ids=str)
def test_prompts_of_all_kinds_come_before_their_answers(url, prompt, stream):
    """Texts, offsets and numbers of every token; nothing is known of a prompt's first."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        answer = client.completions.create(
            model="tiny", prompt=prompt, echo=True, logprobs=2, n=2, stream=stream, **FIELDS
        )
        parts = list(answer) if stream else [answer]
    for place, ids in enumerate(ids for ids in ids_of(prompt) for _ in range(2)):
        choices = [choice for part in parts for choice in part.choices if choice.index == place]
        added = expected_tokens(ids, RULES, sample=place % 2)
        whole = [*ids, *added]
        text = "".join(choice.text for choice in choices)
        assert text == tokenizer().decode(ids) + tokenizer().decode(added)
        columns = {
            name: [value for choice in choices if choice.logprobs for value in getattr(choice.logprobs, name)]
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        }
        assert columns["tokens"] == [tokenizer().decode([token]) for token in whole]
        assert columns["token_logprobs"] == [None, *map(log_probability, whole[1:])]
        assert columns["top_logprobs"][0] is None
        assert [max(top.values()) for top in columns["top_logprobs"][1:]] == columns["token_logprobs"][1:]
        assert columns["text_offset"][0] == 0
        assert columns["text_offset"][len(ids)] == len(tokenizer().decode(ids))
        assert all(one <= other for one, other in pairwise(columns["text_offset"]))
    if not stream:
        assert answer.usage.prompt_tokens == sum(map(len, ids_of(prompt)))
        assert answer.usage.completion_tokens == 2 * 4 * len(ids_of(prompt))


def test_an_echo_alone_adds_nothing(url):
    body = {"prompt": ["one", "two and"], "echo": True, "max_tokens": 0}
    for fields in ({}, {"logprobs": 1}):
        answer = ask(f"{url}/v1/completions", body | fields).body
        assert [choice["text"] for choice in answer["choices"]] == ["one", "two and"]
        assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "length"]
        assert answer["usage"]["completion_tokens"] == 0
    assert [len(choice["logprobs"]["tokens"]) for choice in answer["choices"]] == [
        len(tokenizer().encode(text)) for text in body["prompt"]
    ]
    whole_context = {"prompt": [5] * 511, "echo": True, "max_tokens": 0, "logprobs": 0}
    assert ask(f"{url}/v1/completions", whole_context).body["choices"][0]["logprobs"]["top_logprobs"] is None
    too_long = ask(f"{url}/v1/completions", whole_context | {"prompt": [5] * 513})
    assert too_long.error["code"] == "context_length_exceeded"
    assert ask(f"{url}/v1/completions", {"prompt": "a", "max_tokens": 0}).error["param"] == "max_tokens"
    assert ask(f"{url}/v1/completions", {"prompt": "a", "echo": 1}).error["param"] == "echo"


def test_one_token_comes_after_the_prompt_also_where_it_ends_the_answer(url):
    """lm-eval asks for one token and takes the last away; if a stop token were left out, it would take one too many."""
    ends = next(number for number in range(5000) if not expected_tokens([number, 8], Sampling(max_tokens=1)))
    body = {"prompt": [ends, 8], "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0, "seed": 1234}
    choice = ask(f"{url}/v1/completions", body).body["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["text"] == tokenizer().decode([ends, 8])
    assert choice["logprobs"]["token_logprobs"] == [None, log_probability(8), -0.5]
    without = ask(f"{url}/v1/completions", body | {"echo": False}).body["choices"][0]
    assert without["logprobs"]["tokens"] == []
