"""Messages between ranks as JSON: what a rank sends is data, and nothing in it can name code to run.

Written: numbers, texts, None, lists, tuples, frozen sets, mappings, and our own records (dataclasses, named tuples) as
the list of their fields. Read back by the type that the receiver expects, which says what each list was. Floats come
back bit for bit, NaN and infinity too.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from megaphi.errors import InputError
from megaphi.json_text import parse_json


def encoded(message: Any) -> bytes:
    """The message as UTF-8. Raises TypeError for what no message holds."""
    return json.dumps(message, default=_as_list, separators=(",", ":")).encode()


def decoded(content: bytes, kind: Any) -> Any:
    """The message that `content` holds.

    Args:
        kind: its type: `list[str | None]`, `Request`, ...

    Raises:
        RuntimeError: it is no message of this type, so the ranks do not run the same code.
    """
    try:
        return _read(parse_json(content), kind)
    except (InputError, ValueError, TypeError, KeyError) as error:
        raise RuntimeError(f"a message of another rank is no {kind}: {error}") from None


def _as_list(value: Any) -> list[Any]:
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is no part of a message")


def _read(plain: Any, kind: Any) -> Any:
    if kind is Any:
        return plain
    origin, choices = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_one_of(plain, choices)
    if origin is Literal:
        return _expect(plain, plain in choices, kind)
    if origin is tuple and not (len(choices) == 2 and choices[1] is Ellipsis):
        return tuple(_read(one, choice) for one, choice in zip(_list(plain, kind), choices, strict=True))
    if origin in (tuple, list, Sequence, frozenset):
        made = [_read(one, choices[0]) for one in _list(plain, kind)]
        return made if origin in (list, Sequence) else {tuple: tuple, frozenset: frozenset}[origin](made)
    if origin in (dict, Mapping):
        _expect(plain, isinstance(plain, dict), kind)
        return {_key(key, choices[0]): _read(value, choices[1]) for key, value in plain.items()}
    if record := _fields(kind):
        values = zip(record.items(), _list(plain, kind), strict=True)
        return kind(**{name: _read(one, hint) for (name, hint), one in values})
    return _read_scalar(plain, kind)


def _read_one_of(plain: Any, kinds: Sequence[Any]) -> Any:
    """The first of these types that the value has."""
    for kind in kinds:
        try:
            return _read(plain, kind)
        except (ValueError, TypeError):
            continue
    raise TypeError(f"{type(plain).__name__} is none of {kinds}")


def _read_scalar(plain: Any, kind: Any) -> Any:
    if kind in (None, type(None)):
        return _expect(plain, plain is None, kind)
    if kind is float:
        return float(_expect(plain, type(plain) in (int, float), kind))
    return _expect(plain, type(plain) is kind, kind)


def _key(key: str, kind: Any) -> Any:
    return int(key) if kind is int else key


def _list(plain: Any, kind: Any) -> list[Any]:
    return _expect(plain, isinstance(plain, list), kind)


def _expect(plain: Any, holds: bool, kind: Any) -> Any:
    if not holds:
        raise TypeError(f"{type(plain).__name__} where {kind} belongs")
    return plain


@cache
def _fields(kind: Any) -> dict[str, Any]:
    """Names and types of the fields of a record, in order; none for other types."""
    if not (is_dataclass(kind) or hasattr(kind, "_fields")):
        return {}
    hints = get_type_hints(kind)
    names = getattr(kind, "_fields", None) or [field.name for field in fields(kind)]
    return {name: hints[name] for name in names}
