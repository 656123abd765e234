"""Sections of a configuration that are of one of several kinds, each a class with fields of its own: a run's `task`.

In JSON such a section has the field `kind` beside its own: the name of its class, or `my_file.py:Class@digest` where
the class is the user's own. That file is loaded when the kind is asked for, if it still has that digest.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

from megaphi.errors import InputError, did_you_mean
from megaphi.foreign.files import brief
from megaphi.own_code import digest_of, is_own_code, load_own, path_as_pinned

KIND = "kind"
"""The field that says it, in JSON only: in Python the class does."""
_WHAT = "task"
"""Kind of thing that a user's file holds: the only section of several kinds so far."""


class SectionOfKinds:
    """Base class: what derives from it directly is a section, and dataclasses that derive from that are its kinds."""

    __slots__ = ()


def kinds(section: type) -> dict[str, type]:
    """By name, the kinds known so far of the section that `section` is or is a kind of; abstract ones have no field."""
    found: dict[str, type] = {}
    waiting = [_base(section)]
    while waiting:
        # A dataclass with slots is made twice, and the first one stays in this list until it is collected.
        derived = waiting.pop().__subclasses__()
        waiting += derived
        found |= {kind_of(one): one for one in derived if dataclasses.is_dataclass(one) and dataclasses.fields(one)}
    return found


@functools.cache
def kind_of(section: type) -> str:
    """The name of a kind, as JSON has it."""
    if section.__module__.startswith("megaphi."):
        return section.__name__
    path = getattr(sys.modules[section.__module__], "__file__", None)
    return section.__name__ if path is None else f"{path}:{section.__name__}@{digest_of(Path(path))}"


def section_from_kind(section: type, value: Any, *, where: str) -> tuple[type, dict[str, Any]]:
    """(class, its fields) of a section read from JSON.

    Raises:
        InputError: it says no kind, or one that does not exist.
    """
    if not isinstance(value, dict) or not isinstance(value.get(KIND), str):
        names = ", ".join(kinds(section))
        raise InputError(f"{where}: expected an object with {where}.{KIND}, one of {names}; got {brief(value)}")
    fields = dict(value)
    name = fields.pop(KIND)
    own = path_as_pinned(name, what=_WHAT, where=f"{where}.{KIND}") if is_own_code(name) else None
    known = kinds(section)
    found = known.get(name) or (None if own is None else _own(section, own, where=where))
    if found is None:
        hint = did_you_mean(name, known)
        raise InputError(f"{where}.{KIND}={name!r}: expected {', '.join(known)}, or my_file.py:Class.{hint}")
    return found, fields


def _own(section: type, name: str, *, where: str) -> type:
    own: Any = load_own(name, what=_WHAT)
    if not (isinstance(own, type) and issubclass(own, _base(section)) and dataclasses.is_dataclass(own)):
        raise InputError(f"{where}.{KIND}={name}: expected a dataclass derived from {_base(section).__name__}")
    return own


def why_unknown(section: type, name: str, *, where: str) -> str:
    """Return why a kind has no such field, where another one has it or it is `kind`; empty for all other sections."""
    if not issubclass(section, SectionOfKinds):
        return ""
    what, kind = where.split(".")[0], kind_of(section)
    if name == KIND:
        return f" The {what} of this run is {kind}, as its recipe says: start from another recipe."
    others = [
        other for other, one in kinds(section).items() if name in {field.name for field in dataclasses.fields(one)}
    ]
    return f" The {what} of this run is {kind}; {name!r} is for {' and '.join(others)}." if others else ""


def _base(section: type) -> type:
    return next(one for one in section.__mro__ if SectionOfKinds in one.__bases__)
