"""Hostile pickles do nothing: they are refused, or turn into stand-ins that remember what they were asked to do."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from megaphi.conversion.formats.megatron.restricted_pickle import StandIn, read_pickle
from megaphi.errors import InputError


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
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_nothing_is_run(name: str, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "touched"
    if name == "attribute":  # modules do not pickle, so that one is spelt by hand
        content = b"cbuiltins\ngetattr\n(cos\n__dict__\nS'system'\ntR."
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
