"""Pickles of other projects, read without running anything in them: the only module that may import `pickle`.

A pickle names classes and functions to call. Here every name becomes a `StandIn`, which does nothing when it is called,
filled or appended to, and records what it was given; nothing that a pickle names is imported. So the worst that a
hostile pickle can achieve is to be refused: for its size, for an unexpected name, or for its contents.
"""

from __future__ import annotations

import io
import pickle  # the subclass below looks nothing up
from collections.abc import Callable
from typing import Any

from megaphi.errors import InputError

LARGEST_BYTES = 1 << 28


class StandIn:
    """Stand-in for a class or function named by a pickle: its name, arguments of the call, and attributes."""

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None
        self.items: list[Any] = []

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        self.items.append(item)

    def extend(self, items: Any) -> None:
        self.items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def __call__(self, *arguments: Any) -> StandIn:
        return StandIn(self.name, (*self.arguments, *arguments))

    def __hash__(self) -> int:
        plain = self.state.values() if isinstance(self.state, dict) else ()
        return hash((self.name, *(value for value in plain if isinstance(value, str | int))))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StandIn) and self._content() == other._content()

    def _content(self) -> tuple[Any, ...]:
        return self.name, self.arguments, self.state

    def field(self, name: str) -> Any:
        """An attribute that the pickle set; None if it did not."""
        return self.state.get(name) if isinstance(self.state, dict) else None


def read_pickle(content: bytes, *, where: str, is_expected: Callable[[str], bool] = lambda name: True) -> Any:
    """Read a pickle, with a `StandIn` for everything that is not a plain value.

    Args:
        where: names the file in errors.
        is_expected: whether a name (`module.name`) has a place in this pickle.

    Raises:
        InputError: it is too large, truncated, corrupted, or names something unexpected.
    """
    if len(content) > LARGEST_BYTES:
        raise InputError(f"{where} has {len(content):,} bytes, expected at most {LARGEST_BYTES:,}")
    try:
        return _Reader(io.BytesIO(content), where, is_expected).load()
    except InputError:
        raise
    except Exception as error:  # a corrupted pickle can raise anything
        raise InputError(f"{where} is corrupted or truncated: not a complete pickle ({type(error).__name__})") from None


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, where: str, is_expected: Callable[[str], bool]) -> None:
        super().__init__(file)
        self._where, self._is_expected = where, is_expected

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        name = f"{module_name}.{global_name}"
        if not self._is_expected(name):
            raise InputError(f"{self._where} names {name}, which has no place in it: it is not read")
        return _maker(name)

    def persistent_load(self, pid: Any) -> Any:
        return StandIn("persistent", (pid,))


def _maker(name: str) -> type[StandIn]:
    """Make a class for a name: pickles call it, and also make instances without calling it."""

    def new(cls: type[StandIn], *arguments: Any, **named: Any) -> StandIn:
        made = object.__new__(cls)
        StandIn.__init__(made, name, (*arguments, *named.values()))
        return made

    return type("StandIn", (StandIn,), {"__new__": new, "__init__": lambda self, *_, **__: None, "global_name": name})
