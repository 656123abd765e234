"""Values of a program as plain JSON, and back: the only form in which anything leaves a candidate's process.

Numbers, texts, bytes, lists, tuples, dicts and sets of such, with their types kept: a tuple comes back as a tuple. What
is plain is decided by exact type (`type(value) is list`), never by `isinstance`, and no method that a candidate can
define is called: not `__eq__`, not `__repr__`, not `__reduce__`, not `__class__`. A subclass is not plain, but for the
three of `collections` that answers do return, which arrive as the dict that they hold. Decoding trusts nothing: it
builds exact types or raises `NotPlain`.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, defaultdict
from typing import Any

DEEPEST = 100
LARGEST_DIRECT = 1 << 63
"""Integers beyond it travel as hexadecimal digits, which take linear time to read and write."""
_SEQUENCES: dict[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}
_BUILDERS: dict[str, Any] = {name: kind for kind, name in _SEQUENCES.items()}
_DICTS = (dict, defaultdict, OrderedDict, Counter)


class NotPlain(ValueError):
    """A value that is not plain data; its message says which type it has, and where the limit is."""


def encode(value: Any, *, depth: int = 0) -> Any:
    """Plain JSON that `decode` reads. Raises `NotPlain`."""
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -LARGEST_DIRECT <= value < LARGEST_DIRECT else ["int", hex(value)]
    if kind is float:
        return value if value - value == 0 else ["float", float.__repr__(value)]  # NaN and infinity are not JSON
    if depth >= DEEPEST:
        raise NotPlain(f"nested more than {DEEPEST} deep, or a part of itself")
    if kind in _SEQUENCES:
        return [_SEQUENCES[kind], [encode(item, depth=depth + 1) for item in value]]
    if kind in _DICTS:
        pairs = [[encode(key, depth=depth + 1), encode(item, depth=depth + 1)] for key, item in dict.items(value)]
        return ["dict", pairs]
    if kind is bytes or kind is bytearray:
        return ["bytes", value.hex()]
    if kind is complex:
        return ["complex", [encode(value.real, depth=depth), encode(value.imag, depth=depth)]]
    raise NotPlain(f"of type {type.__getattribute__(kind, '__name__')[:80]}, which is not plain data")


def decode(value: Any) -> Any:
    """The inverse of `encode`. Raises `NotPlain` for anything that `encode` does not write."""
    kind = type(value)
    if value is None or kind in (bool, str, int, float):
        return value
    if kind is not list or len(value) != 2 or type(value[0]) is not str:
        raise NotPlain("not in the form of encoded values")
    name, content = value
    try:
        if name in _BUILDERS:
            return _BUILDERS[name]([decode(item) for item in content])
        if name == "dict":
            return {decode(key): decode(item) for key, item in content}
        if name == "int":
            return int(content, 16)
        if name == "float" and content in ("nan", "inf", "-inf"):
            return float(content)
        if name == "bytes":
            return bytes.fromhex(content)
        if name == "complex":
            return complex(decode(content[0]), decode(content[1]))
    except NotPlain:
        raise
    except (TypeError, ValueError, IndexError, RecursionError):  # an unhashable key, a text where a list must be
        raise NotPlain(f"a {name} that cannot be read") from None
    raise NotPlain("of a type that nobody knows")


def to_bytes(message: Any) -> bytes:
    """One message as JSON; lone surrogates survive as escapes."""
    return json.dumps(message, allow_nan=False, check_circular=False).encode()


def from_bytes(content: bytes) -> Any:
    """Raises `NotPlain` for what is not one JSON value, whatever is wrong with it."""
    try:
        return json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError, MemoryError):
        raise NotPlain("not JSON") from None


def _refuse(name: str) -> Any:
    raise NotPlain(f"{name} is not JSON")
