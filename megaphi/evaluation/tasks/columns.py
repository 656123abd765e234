"""Columns of a dataset's record, read with one clear error for a wrong one.

Files give the same column in several forms: a list of texts is a list in JSON lines and Parquet, and JSON in a cell of
CSV; numbers are text in CSV. A column may have several names, joined by `|`; the first that the record has counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from megaphi.errors import InputError
from megaphi.evaluation.task import Item, Record
from megaphi.json_text import parse_json


def column(record: Record, names: str) -> tuple[str, Any]:
    """(name, value) of the first of `names` that the record has a value for. Raises InputError if it has none."""
    for name in names.split("|"):
        if record.get(name) is not None:
            return name, plain_value(record[name])
    raise InputError(f"column {names.replace('|', ' or ')!r} is missing: the record has {', '.join(map(str, record))}")


def has_column(record: Record, names: str) -> bool:
    return any(record.get(name) is not None for name in names.split("|"))


def plain_value(value: Any) -> Any:
    """Lists and numbers of Python for those of NumPy, which readers of Parquet give."""
    return value.tolist() if hasattr(value, "tolist") else value


def text_column(record: Record, names: str) -> str:
    """A text that is not blank."""
    name, value = column(record, names)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"column {name!r} must be a text that is not blank, not {shown(value)}")
    return value


def label_column(record: Record, names: str) -> str:
    """A text or a whole number, as text: an id, a subject, a level. "" if the record has none."""
    if not has_column(record, names):
        return ""
    name, value = column(record, names)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"column {name!r} must be a text or a whole number, not {shown(value)}")
    return str(value).strip()


def texts_column(record: Record, names: str) -> tuple[str, ...]:
    """A list of texts, or JSON of one."""
    name, value = column(record, names)
    return texts_of(name, value)


def texts_of(name: str, value: Any) -> tuple[str, ...]:
    """The texts of a list, a tuple, an array, or JSON of a list. Raises InputError that names the column."""
    found = json_value(value)
    if not isinstance(found, list | tuple) or not found or not all(isinstance(one, str) for one in found):
        raise InputError(f"column {name!r} must be a list of texts, not {shown(value)}")
    return tuple(found)


def json_value(value: Any) -> Any:
    """The list or object that a cell of CSV holds as JSON; any other value as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return plain_value(value)
    try:
        return parse_json(value)
    except InputError:
        return value


def item_name(record: Record, ids: str, *texts: str) -> str:
    """The dataset's own id by the columns `ids`, or else a hash of what tells the item from others."""
    return label_column(record, ids) or hashlib.sha256("\0".join(texts).encode("utf-8", "replace")).hexdigest()[:16]


def with_repetitions(items: Sequence[Item]) -> list[Item]:
    """Items under unique names: a question that a file holds twice is two items of one cluster."""
    seen: dict[str, int] = {}
    found = []
    for item in items:
        seen[item.name] = number = seen.get(item.name, 0) + 1
        cluster = item.cluster or item.name
        found.append(replace(item, name=f"{item.name}-{number}", cluster=cluster) if number > 1 else item)
    return [replace(item, cluster=item.cluster or item.name) if seen.get(item.name, 0) > 1 else item for item in found]


def shown(value: Any) -> str:
    """A value for a message: its type, and its beginning if it is text."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 40 else f"{value[:40]!r}…"
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(str, value)) or 'no field'}"
    return f"a list of {len(value)}" if isinstance(value, Sequence) else f"{type(value).__name__} {value}"
