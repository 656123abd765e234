"""Plain data and its JSON: types survive the round trip, nothing else passes for plain or decodes by accident."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, defaultdict, namedtuple
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.grading.code_sandbox.inside.plain_data import NotPlain, decode, encode, from_bytes, to_bytes

KEYS = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text())
SCALARS = KEYS | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS, inner)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
    ),
    max_leaves=8,
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["list", "dict", "int", "float", "set", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
)


def typed(value: Any) -> Any:
    """The value with the type of each part beside it: True and 1 differ, and so do 0.0 and -0.0."""
    if isinstance(value, list | tuple):
        return type(value), [typed(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), {repr(typed(item)) for item in value}
    if isinstance(value, dict):
        return dict, [(typed(key), typed(item)) for key, item in value.items()]
    return type(value), repr(value)


@settings(max_examples=50)
@given(PLAIN)
def test_a_value_comes_back_with_the_types_that_it_had(value: Any) -> None:
    assert typed(decode(from_bytes(to_bytes(encode(value))))) == typed(value)


@given(JSON)
def test_any_json_decodes_to_exact_types_or_is_refused(value: Any) -> None:
    try:
        decoded = decode(value)
    except NotPlain:
        return
    assert "class" in repr(typed(decoded))


@given(st.binary())
def test_any_bytes_are_json_or_refused(content: bytes) -> None:
    try:
        from_bytes(content)
    except NotPlain:
        return
    json.loads(content)


def test_numbers_that_json_does_not_have_travel_too() -> None:
    assert math.isnan(decode(from_bytes(to_bytes(encode(math.nan)))))
    assert decode(encode([math.inf, -math.inf, 10**5000])) == [math.inf, -math.inf, 10**5000]
    with pytest.raises(NotPlain):
        from_bytes(b"NaN")


Point = namedtuple("Point", "x y")


class Lying(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


@pytest.mark.parametrize(
    "value",
    [
        Lying(1),
        Point(1, 2),
        object(),
        int,
        Decimal(1),
        range(3),
        iter([]),
        [1, {2: Lying(3)}],
        {Lying(1): 2},
        lambda: 1,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_exactly_plain_is_refused_with_its_type(value: Any) -> None:
    with pytest.raises(NotPlain, match=r"of type \w+, which is not plain data"):
        encode(value)


def test_dictionaries_of_collections_arrive_as_the_dict_that_they_hold() -> None:
    for value in (Counter("aab"), OrderedDict(a=1), defaultdict(list, {3: [4]})):
        assert typed(decode(encode(value))) == typed(dict(value))


def test_what_contains_itself_is_refused() -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    with pytest.raises(NotPlain, match="part of itself"):
        encode(cyclic)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a": 1', b"\xff", b"", b"1" * 5000])
def test_hostile_json_is_one_kind_of_error(content: bytes) -> None:
    with pytest.raises(NotPlain):
        from_bytes(content)
