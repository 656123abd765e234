"""Hostile pickles do nothing: they are refused, or turn into stand-ins that remember what they were asked to do.

Plain data comes out as Python's own `pickle` reads it, whatever protocol wrote it; what takes Python's own reader all
memory, or for ever, is refused at once.
"""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.errors import InputError
from megaphi.foreign.restricted_pickle import StandIn, read_pickle


class Calls:
    """Pickles as a call of `function` with `arguments`, and fills what comes back with `state`."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.made = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.made


def hostile(path: Path) -> dict[str, Any]:
    return {
        "system": Calls(os.system, f"touch {path}"),
        "eval": Calls(eval, f"open({str(path)!r}, 'w')"),
        "nested": {"args": [Calls(exec, f"open({str(path)!r}, 'w')")]},
        "state": Calls(collections.OrderedDict, state={"x": Calls(os.mkdir, str(path))}),
        "attribute": Calls(getattr, os, "system"),
    }


@pytest.mark.parametrize("name", hostile(Path()))
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_nothing_is_run(name: str, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "touched"
    if name == "attribute":  # modules do not pickle, so that one is spelt by hand
        content = b"\x80\x02cbuiltins\ngetattr\n(cos\n__dict__\nX\x06\0\0\0systemtR."
    else:
        content = pickle.dumps(hostile(path)[name], protocol=protocol)
    read_pickle(content, where="it")  # every name a stand-in
    assert not path.exists()
    with pytest.raises(InputError, match=r"it names (posix|builtins|__builtin__|os)\.\w+, which has no place in it"):
        read_pickle(content, where="it", is_expected=lambda name: name.startswith("collections."))
    assert not path.exists()


def test_stand_ins_remember() -> None:
    namespace = argparse.Namespace(heads=6, rate=0.5, names=["a"], path=Path("x"))
    found = read_pickle(pickle.dumps({"args": namespace}), where="it")["args"]
    assert isinstance(found, StandIn)
    assert found.name == "argparse.Namespace"
    assert found.field("heads") == 6
    assert found.field("names") == ["a"]
    assert isinstance(found.field("path"), StandIn)
    assert found.field("nothing") is None


@pytest.mark.parametrize(
    "content", [b"", b".", b"\x80\x05", b"garbage", b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", b"(" * 9]
)
def test_damage_is_one_message(content: bytes) -> None:
    with pytest.raises(InputError, match="it is corrupted or truncated"):
        read_pickle(content, where="it")


def test_every_truncation_is_found() -> None:
    content = pickle.dumps({"a": [1, 2.5, "text"], "b": argparse.Namespace(x=1)})
    for length in range(len(content)):
        with pytest.raises(InputError, match="corrupted or truncated"):
            read_pickle(content[:length], where="it")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text(),
    lambda part: (
        st.lists(part, max_size=4)
        | st.lists(part, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(-99, 99), part, max_size=4)
    ),
    max_leaves=30,
)


@given(value=PLAIN, protocol=st.integers(2, 5))
@settings(max_examples=200, deadline=None)
def test_plain_data_is_what_python_reads(value: Any, protocol: int) -> None:
    content = pickle.dumps([value, value], protocol)
    assert read_pickle(content, where="it") == pickle.loads(content)


def test_bytes_and_sets_are_what_python_reads() -> None:
    value = [b"", b"x" * 300, {1, "a"}, frozenset({b"b", None})]
    assert read_pickle(pickle.dumps(value, 4), where="it") == value


def colliding(count: int) -> bytes:
    """A dict of integers that all have the same hash."""
    keys = (b"\x8a\x10" + (k * ((1 << 61) - 1)).to_bytes(16, "little") + b"N" for k in range(1, count))
    return b"\x80\x02}(" + b"".join(keys) + b"u."


DOUBLED = b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60))
"""A tuple of two of the same tuple, and so on: 2^60 values, spelt in 240 bytes."""
HOSTILE = {
    "deep tuples": b"\x80\x02K\x01" + b"\x85" * 1_000_000 + b".",
    "deep lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "a deep key": b"\x80\x02}K\x01" + b"\x85" * 1_000_000 + b"Ns.",
    "a key of 2^60 values": b"\x80\x02}K\x01" + DOUBLED + b"Ns.",
    "2^60 values": b"\x80\x02K\x01" + DOUBLED + b".",
    "a long text a thousand times": b"\x80\x02]q\0(X\x40\x42\x0f\0"
    + b"x" * 1_000_000
    + b"q\1"
    + b"h\1" * 10**6
    + b"e.",
    "bytes of a terabyte": b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b".",
    "an array of bytes": b"\x80\x05\x96" + (1 << 33).to_bytes(8, "little") + b".",
    "a long integer": b"\x80\x02\x8b" + (1 << 20).to_bytes(4, "little") + b"\x7f" * (1 << 20) + b".",
    "digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "a list in itself": b"\x80\x02]q\0h\0a.",
    "a list that grows in another": b"\x80\x02]q\0]h\0a0h\0K\1a.",
    "a call of a number": b"\x80\x02K\1)R.",
    "a mark in the memo": b"\x80\x02(q\0h\0.",
    "another protocol": b"\x80\x09N.",
    "text opcodes": b"(dp0\nS'a'\np1\nI1\ns.",
    "a name that moves the cursor": b"\x80\x02cx\n\x1b[2J\n.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_takes_all_memory_or_for_ever_is_refused_at_once(name: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError) as found:
        read_pickle(HOSTILE[name], where="it", is_expected=lambda name: name.isprintable())
    assert str(found.value).isprintable()
    assert time.monotonic() - began < 10


def test_a_far_place_of_the_memo_costs_nothing() -> None:
    assert read_pickle(b"\x80\x02Nr\xff\xff\xff\x7fj\xff\xff\xff\x7f.", where="it") is None


def test_keys_of_one_hash_cost_no_more_than_others() -> None:
    began = time.monotonic()
    assert len(read_pickle(colliding(20_000), where="it")) == 19_999
    assert time.monotonic() - began < 10
