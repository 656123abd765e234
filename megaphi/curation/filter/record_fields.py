"""Fields of a record by a key with dots: `metadata.topic` is the field `topic` of the object `metadata`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def value_at(record: Mapping[str, Any], key: str) -> Any:
    """The value, or None where there is none; a field whose own name has dots comes first."""
    if key in record:
        return record[key]
    found: Any = record
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
