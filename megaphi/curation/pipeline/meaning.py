"""The settings that decide a result, as JSON: what was done before is recognised by them.

Of a part of a recipe that is its class, its VERSION, all fields but those that it names in `WITHOUT_EFFECT`, the
fingerprint of every file that a field names (a model, a list of words), and of a class of the user's own the digest of
its source file: whoever edits a filter gets its new result, without having to think of a version.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megaphi.config import FilePath, to_plain
from megaphi.data.text.input_identity import identify
from megaphi.errors import InputError
from megaphi.own_code import digest_of


def meaning_of(part: Any, *, where: str, with_files: bool = True) -> dict[str, Any]:
    """All that decides what a reader, step or writer does; JSON values.

    Args:
        where: path of the part in the recipe, for messages.
        with_files: whether files that its fields name are part of it; not for a reader, whose portions say it.

    Raises:
        InputError: a named file cannot be read, or a field is no value of JSON.
    """
    kind = type(part)
    without = getattr(kind, "WITHOUT_EFFECT", frozenset())
    settings = {name: value for name, value in to_plain(part).items() if name not in without}
    found = {"class": kind.__name__, "version": kind.VERSION, "settings": settings}
    if own := _own_source(kind):
        found["source"] = digest_of(own)
    if with_files and (files := _fingerprints(part)):
        found["files"] = files
    try:
        json.dumps(found)
    except TypeError as error:
        raise InputError(
            f"{where}: a field is no value of JSON ({error}): use text, numbers, tuples, dataclasses"
        ) from None
    return found


def digest(*values: Any) -> str:
    """One name for JSON values, 20 hex digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:20]


def _own_source(kind: type) -> Path | None:
    if kind.__module__.startswith("megaphi."):
        return None
    path = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return Path(path) if path else None


def _fingerprints(part: Any) -> dict[str, str]:
    """Fingerprint of every file that a field names; of a folder, over all files in it."""
    return {name: _fingerprint(os.path.realpath(name)) for name in _named_files(part) if Path(name).exists()}


def _fingerprint(path: str) -> str:
    root = Path(path)
    files = [root] if root.is_file() else sorted(each for each in root.rglob("*") if each.is_file())
    found = identify(files, threads=1) if files else []
    if root.is_file():
        return found[0].fingerprint
    return digest([[str(file.path.relative_to(root)), file.fingerprint] for file in found])


def _named_files(section: Any) -> Iterator[str]:
    hints = typing.get_type_hints(type(section), include_extras=True)
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(item) and not isinstance(item, type):
                yield from _named_files(item)
            elif isinstance(item, str) and item and _mentions_file(hints[field.name]):
                yield item


def _mentions_file(hint: Any) -> bool:
    return hint == FilePath or any(_mentions_file(inner) for inner in typing.get_args(hint) if inner is not Ellipsis)
