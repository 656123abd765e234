"""Answers that must be JSON: random walks through what is allowed, what cannot be kept to, requests to the server."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from megaphi.errors import InputError
from megaphi.generation.decoding.interface import Request
from megaphi.generation.decoding.json_constraint import ANY_OBJECT, Constraints
from megaphi.sampling import Sampling
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.generation.server.fake_generator import FakeGenerator
from tests.generation.server.served import ask, constraints, served, tokenizer

SCHEMAS: dict[str, tuple[dict[str, Any], Callable[[Any], bool]]] = {
    "an object of two": (
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "boolean"}}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
        lambda found: list(found) == ["a", "b"] and type(found["a"]) is int and {*found["b"]} <= {True, False},
    ),
    "one of few, or a short text": (
        {"anyOf": [{"enum": ["red", 7, None]}, {"type": "string", "minLength": 2, "maxLength": 4}]},
        lambda found: found in ("red", 7, None) or 2 <= len(found) <= 4,
    ),
    "a list of a length, by reference": (
        {"$defs": {"n": {"type": "number", "minimum": -1}}, "type": "array", "items": {"$ref": "#/$defs/n"}}
        | {"minItems": 2, "maxItems": 3},
        lambda found: 2 <= len(found) <= 3 and min(found) >= -1,
    ),
    "a pattern": (
        {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        lambda found: len(found) == 6 and found[2] == "-" and found[3:].isdigit(),
    ),
}


def walk(of: Constraints, schema: str, *, seed: int, vocabulary: int, stops: frozenset[int], longest: int) -> list[int]:
    """A random answer of tokens that are allowed, until it ends; those that it consists of."""
    draw, constraint, answer = random.Random(seed), of.open(schema), []
    while len(answer) < longest:
        (allowed,) = constraint.allowed(answer, vocabulary=vocabulary).nonzero()
        ends = [token for token in allowed if token in stops]
        token = int(draw.choice(ends or allowed))
        if token in stops:
            return answer
        answer.append(token)
    return []


@pytest.mark.parametrize("size", [352, 100_352])
@pytest.mark.parametrize("name", SCHEMAS)
def test_whatever_is_allowed_leads_to_json_of_the_schema(name, size):
    """Also with a model that has rows beyond the tokenizer's last token, which never are."""
    schema, holds = SCHEMAS[name]
    of = constraints() if size == 100_352 else Constraints(load_tokenizer(size))
    spelled = load_tokenizer(size) if size == 352 else tokenizer()
    ended = 0
    for seed in range(20):
        settings = {"seed": seed, "vocabulary": size + 8, "stops": spelled.stop_tokens, "longest": 2_000}
        answer = walk(of, json.dumps(schema), **settings)
        if answer:
            found = json.loads(spelled.decode(answer))
            assert holds(found), found
            ended += 1
    assert ended >= 15


def test_white_space_ends():
    blank = frozenset(tokenizer().encode(" ") + tokenizer().encode("\n"))
    constraint, answer = constraints().open(ANY_OBJECT), tokenizer().encode("{")
    for _ in range(100):
        (allowed,) = constraint.allowed(answer, vocabulary=100_352).nonzero()
        blanks = [int(token) for token in allowed if token in blank]
        if not blanks:
            return
        answer.append(blanks[0])
    pytest.fail("100 blanks in a row")


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "object", "not": {}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "propertyNames": {"pattern": "a"}}, "propertyNames"),
        ({"type": "string", "format": "colour"}, "colour"),
        ({"type": "text"}, "text"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "minimum"),
        ({"$ref": "https://example.com/schema"}, "https://example.com/schema"),
        ({"type": "object", "x-guidance": {"lenient": True}, "not": {}}, "not"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    ],
    ids=str,
)
def test_what_cannot_be_kept_to_is_refused_by_name(schema, named):
    with pytest.raises(InputError, match=f"the schema cannot be kept to: .*{named}"):
        constraints().check(json.dumps(schema))


def test_a_schema_that_is_nested_beyond_reason_is_one_error():
    depth = 20_000
    with pytest.raises(InputError, match="the schema cannot be kept to"):
        constraints().check('{"items":' * depth + "{}" + "}" * depth)


def of(schema):
    return json.dumps({"type": "object", "properties": {"a": schema}, "required": ["a"]})


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "integer", "multipleOf": 1_000_003}, "multipleOf"),
        ({"type": "number", "multipleOf": 1234.567}, "multipleOf"),
        ({"allOf": [{"type": "integer", "multipleOf": prime} for prime in (97, 101, 103)]}, "multipleOf"),
        ({"type": "array", "prefixItems": [{"type": "integer", "multipleOf": 9_973}] * 11}, "multipleOf"),
        ({"anyOf": [{"type": "object", "properties": {f"k{place}": {}}} for place in range(1_000)]}, "fuel"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_takes_seconds_to_compile_is_refused_at_once(schema, named):
    began = time.monotonic()
    with pytest.raises(InputError, match=f"the schema cannot be kept to: .*{named}"):
        constraints().check(of(schema))
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("schema", [{"multipleOf": 0.01}, {"multipleOf": 1e-9}, {"multipleOf": 1000}, {"minimum": 5}])
def test_usual_numbers_are_taken(schema):
    constraints().check(of({"type": "number", **schema}))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(InputError, match=r"needs the package llguidance: pip install 'megaphi\[serve\]'"):
        Constraints(tokenizer()).check(ANY_OBJECT)


def test_a_schema_is_compiled_once_and_each_answer_has_its_own_place_in_it(monkeypatch):
    compiled = Constraints(tokenizer())
    first, second = compiled.open(ANY_OBJECT), compiled.open(ANY_OBJECT)
    monkeypatch.setattr(compiled, "_matcher", None)
    start = second.allowed([], vocabulary=100_352)
    assert (first.allowed(tokenizer().encode('{"a'), vocabulary=100_352) != start).any()
    assert (second.allowed([], vocabulary=100_352) == start).all()
    assert (compiled.open(ANY_OBJECT).allowed([], vocabulary=100_352) == start).all()


class Recorder(FakeGenerator):
    """Keeps the requests that reach it."""

    def add(self, request: Request) -> None:
        self.last = request
        super().add(request)


@pytest.fixture(scope="module")
def recorder() -> Iterator[tuple[str, Recorder]]:
    generator = Recorder()
    with served(generator) as (url, _):
        yield url, generator


CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
NAMED = {"name": "pair", "schema": SCHEMAS["an object of two"][0], "strict": True, "description": None}


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_object", "json_schema": None}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": NAMED}, NAMED["schema"]),
    ],
    ids=str,
)
def test_response_format_reaches_the_engine_as_a_schema(recorder, response_format, schema):
    url, generator = recorder
    for path, body in (("chat/completions", CHAT), ("completions", {"prompt": "a", "max_tokens": 2})):
        assert ask(f"{url}/v1/{path}", body | {"response_format": response_format}).status == 200
        asked = generator.last.sampling.json_schema
        assert (asked and json.loads(asked)) == schema


@pytest.mark.parametrize(
    ("response_format", "message"),
    [
        ("json", "must be an object"),
        ({}, "response_format.type None is not supported"),
        ({"type": "grammar", "grammar": "x"}, "response_format.type 'grammar' is not supported"),
        ({"type": "json_object", "schema": {}}, "unknown field 'response_format.schema'"),
        ({"type": "json_schema"}, "response_format.json_schema.schema is missing"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": True}}, "schema is missing"),
        ({"type": "json_schema", "json_schema": NAMED | {"strikt": True}}, "Did you mean 'strict'?"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}, 'Unimplemented keys: ["not"]'),
    ],
    ids=str,
)
def test_a_wrong_response_format_is_refused(recorder, response_format, message):
    for stream in (False, True):
        reply = ask(f"{recorder[0]}/v1/chat/completions", CHAT | {"response_format": response_format, "stream": stream})
        assert (reply.status, reply.error["param"]) == (400, "response_format")
        assert message in reply.error["message"]


def test_biases_and_stop_tokens_reach_the_engine(recorder):
    url, generator = recorder
    body = {"prompt": "a", "max_tokens": 2, "logit_bias": {"5": -100, "100351": 1.5}, "stop_token_ids": [7]}
    assert ask(f"{url}/v1/completions", body).status == 200
    assert generator.last.sampling.logit_bias == ((5, -100.0), (100_351, 1.5))
    assert generator.last.stop_tokens == tokenizer().stop_tokens | {7}
    assert ask(f"{url}/v1/completions", body | {"ignore_eos": True}).status == 200
    assert generator.last.stop_tokens == {7}
    assert generator.last.sampling == Sampling(
        max_tokens=2, temperature=1.0, logit_bias=((5, -100.0), (100_351, 1.5)), seed=generator.last.sampling.seed
    )


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"logit_bias": {"100352": 1}}, "logit_bias", "names token id 100352: ids are 0 to 100351"),
        ({"logit_bias": {"hello": 1}}, "logit_bias", "'hello' is not a token id"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "'-1' is not a token id"),
        ({"logit_bias": {"07": 1}}, "logit_bias", "'07' is not a token id"),
        ({"logit_bias": {"٧": 1}}, "logit_bias", "is not a token id"),
        ({"logit_bias": {"7": 101}}, "logit_bias", "from -100 to 100"),
        ({"logit_bias": {"7": True}}, "logit_bias", "from -100 to 100"),
        ({"logit_bias": {"7": None}}, "logit_bias", "from -100 to 100"),
        ({"logit_bias": {"7": 10**400}}, "logit_bias", "from -100 to 100"),
        ({"logit_bias": [5]}, "logit_bias", "must be an object"),
        ({"stop_token_ids": [100_352]}, "stop_token_ids", "names token id 100352"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids", "a list of token ids"),
        ({"ignore_eos": True, "response_format": {"type": "json_object"}}, "ignore_eos", "leave one of the two out"),
    ],
    ids=str,
)
def test_wrong_tokens_are_refused_by_name(recorder, fields, field, message):
    reply = ask(f"{recorder[0]}/v1/completions", {"prompt": "a", **fields})
    assert (reply.status, reply.error["param"]) == (400, field)
    assert message in reply.error["message"]
