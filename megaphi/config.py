"""Configuration as frozen dataclasses: dotted overrides, JSON there and back, differences, help from the source.

A section is declared in the file that uses it; a recipe is a function that returns one nested dataclass. This module
only knows how to walk such a tree. `override` sets `layout.tensor=4` and returns a new tree; `to_plain` and
`from_plain` are exact inverses through JSON; an unknown key is always an error that names the closest known one.
Values are converted by the field's annotation, so a typo in a number cannot become a string. A numeric field declares
the numbers it takes in its annotation too, `Annotated[float, Range(above=0)]`; whatever brings a value (a recipe, an
override, a config.json) goes through the same check, and no float is ever infinite or NaN. A path is a `FilePath`.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import math
import os
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeVar, Union, cast

from megaphi.config_kinds import KIND, SectionOfKinds, kind_of, section_from_kind, why_unknown
from megaphi.errors import InputError, did_you_mean, shortened
from megaphi.foreign.files import brief, one_line_path
from megaphi.json_text import parse_json
from megaphi.log import logger
from megaphi.other_names import our_name
from megaphi.renamed_fields import renamed

Config = TypeVar("Config")

LARGEST_INTEGER = (1 << 63) - 1
"""Upper limit of an integer whose range names no maximum: all arithmetic on it stays exact below."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """The numbers that a field takes, beside its type: `steps: Annotated[int, Range(minimum=0)]`."""

    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.above is None or value > self.above)
            and (self.maximum is None or value <= self.maximum)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.minimum is not None and self.maximum is not None:
            return f"from {self.minimum} to {self.maximum}"
        bounds = {"at least": self.minimum, "above": self.above, "at most": self.maximum, "below": self.below}
        return " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)


@dataclass(frozen=True, slots=True)
class HomeExpanded:
    """Beside its type: the field is a path, and a `~` at its beginning is the user's home folder."""


FilePath = Annotated[str, HomeExpanded()]


def user_path(text: str) -> str:
    """A path as a person writes it; the type of every option and argument that takes one. Raises NoPath."""
    return os.path.expanduser(one_line_path(text))  # noqa: PTH111 (a Path would make s3:/ of s3://)


class OutOfRange(InputError):
    """A number of the right type that its field does not take."""


class Described(NamedTuple):
    """One field as `megaphi train RECIPE --fields` lists it."""

    path: str
    value: Any
    accepts: str
    meaning: str


def check_values(config: Config, *, where: str = "") -> Config:
    """Return the same tree with every value checked: a tree built in Python has not been checked for types or ranges
    yet.

    Raises:
        InputError: naming the field, its value and what it takes.
    """
    return from_plain(type(config), to_plain(config), where=where)


def override(config: Config, assignments: Sequence[str], *, within: str = "") -> Config:
    """Apply `field.path=value` strings from left to right and return the new tree.

    A list of named sections is walked by name or position: `task.mixture.sources.code.weight=0.25`.

    Args:
        within: path of `config` in a larger tree, for messages.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise InputError(f"expected field=value, got {assignment!r} (example: layout.tensor=2)")
        path = _path_of_today(config, path)
        config = _assign(config, path.split("."), text, where=f"{within}.{path}" if within else path)
    return config


def _path_of_today(config: Any, path: str) -> str:
    """The path itself, or for one that was renamed the new one, with a message."""
    now = None if path.split(".")[0] in _hints(type(config)) else renamed(path)
    if now is None:
        return path
    logger.info("%s is called %s now: taken as that", path, now)
    return now


def _assign(node: Any, steps: list[str], text: str, *, where: str) -> Any:
    head, *rest = steps
    if isinstance(node, tuple):
        index = _find_item(node, head, where=where)
        changed = _assign(node[index], rest, text, where=where) if rest else _bad_leaf(where)
        return (*node[:index], changed, *node[index + 1 :])
    hint = field_type(type(node), head, where=where, depth=len(rest))
    if not rest:
        return dataclasses.replace(node, **{head: _parse(hint, text, where=where)})
    child = getattr(node, head)
    if not (dataclasses.is_dataclass(child) or isinstance(child, tuple)):
        raise InputError(f"{where}: {head!r} is a single value and has no field {rest[0]!r}")
    return dataclasses.replace(node, **{head: _assign(child, rest, text, where=where)})


def _bad_leaf(where: str) -> Any:
    raise InputError(f"{where} is a whole section: set one of its fields, {where}.FIELD=value")


def _find_item(items: tuple[Any, ...], key: str, *, where: str) -> int:
    names = [getattr(item, "name", str(index)) for index, item in enumerate(items)]
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(items):
        return int(key)
    raise InputError(f"{where}: no item {key!r}, there are {', '.join(names) or 'none'}.{did_you_mean(key, names)}")


def field_type(section: type, name: str, *, where: str, depth: int = 0) -> Any:
    """The resolved annotation of one field, or an `InputError` that names the closest known field."""
    hints = _hints(section) if dataclasses.is_dataclass(section) else {}
    if name in hints:
        return hints[name]
    parts = where.split(".")
    prefix = ".".join(parts[: len(parts) - 1 - depth])
    known = [f"{prefix}.{field}".lstrip(".") for field in hints]
    ours = our_name(parts[-1])
    guess = f" That is {ours} here." if ours else did_you_mean(f"{prefix}.{name}".lstrip("."), known)
    guess = why_unknown(section, name, where=where) or guess
    raise InputError(f"unknown field {where[:200]!r}.{guess} Fields here: {', '.join(hints) or 'none'}.")


@functools.cache
def _hints(section: type) -> dict[str, Any]:
    hints = typing.get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(section) if field.init}


def _parse(hint: Any, text: str, *, where: str) -> Any:
    """Turn command line text into the annotated type."""
    choices = _union_members(hint)
    if type(None) in choices and text.lower() in ("none", "null"):
        return None
    if typing.get_origin(hint) is tuple and not text.startswith("["):
        return _parse_items(typing.get_args(hint)[0], text, where=where)
    plain = [choice for choice in choices if choice is not type(None)]
    if any(_is_text(choice) or typing.get_origin(choice) is typing.Literal for choice in plain):
        return from_plain(hint, text, where=where)
    try:
        value = parse_json(_as_json(text))
    except InputError:
        raise InputError(f"{where}={text}: expected {_name(hint)}") from None
    return from_plain(hint, value, where=where)


def _parse_items(hint: Any, text: str, *, where: str) -> tuple[Any, ...]:
    """Items with commas between them; empty: none."""
    parts = [part for part in text.split(",") if part]
    if _is_text(hint):
        return tuple(from_plain(hint, part, where=f"{where}.{index}") for index, part in enumerate(parts))
    return tuple(_parse(hint, part, where=f"{where}.{index}") for index, part in enumerate(parts))


def _as_json(text: str) -> str:
    lowered = text.lower()
    if lowered in ("true", "false", "null", "none"):
        return lowered.replace("none", "null")
    if lowered.lstrip("+-") in ("nan", "inf", "infinity"):
        return _number(text)
    if text[:1].isdigit() or text[:1] in "-+.":
        return _number(text)
    return text


def _number(text: str) -> str:
    """JSON spelling of a Python number: `2_000`, `1e-4` and `.5` are all accepted on a command line."""
    try:
        return str(int(text, 10))
    except ValueError:
        pass
    try:
        return json.dumps(float(text))
    except ValueError:
        return text


def to_plain(value: Any) -> Any:
    """The tree as JSON-ready dicts, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = {KIND: kind_of(type(value))} if isinstance(value, SectionOfKinds) else {}
        return kind | {name: to_plain(getattr(value, name)) for name in _hints(type(value))}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def from_plain(hint: Any, value: Any, *, where: str = "") -> Any:
    """Inverse of `to_plain`: build the annotated type from parsed JSON, refusing unknown keys and wrong types."""
    if dataclasses.is_dataclass(hint):
        section = cast(type, hint)
        if issubclass(section, SectionOfKinds):
            section, value = section_from_kind(section, value, where=where)
        return _section_from_plain(section, value, where=where)
    origin = typing.get_origin(hint)
    if origin is Annotated:
        found = from_plain(hint.__origin__, value, where=where)
        if hint == FilePath:
            return user_path(found)
        return _in_range(found, hint, where=where)
    if origin is tuple and isinstance(value, list):
        item = typing.get_args(hint)[0]
        return tuple(from_plain(item, part, where=_item_path(where, index, part)) for index, part in enumerate(value))
    if origin is typing.Literal and value in typing.get_args(hint):
        return value
    if origin in (Union, types.UnionType):
        return _member_from_plain(hint, value, where=where)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, where=where)
    if hint is int and isinstance(value, float) and _finite(value, where=where).is_integer():
        return int(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool) == isinstance(value, bool):
        return value
    raise InputError(f"{where or 'value'}={brief(value)}: expected {_name(hint)}")


def _finite(value: float, *, where: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise OutOfRange(f"{where or 'value'}={number}: must be a finite number")
    return number


def _in_range(value: Any, hint: Any, *, where: str) -> Any:
    for numbers in hint.__metadata__:
        limits = numbers
        if isinstance(value, int) and numbers.maximum is None and value > LARGEST_INTEGER:
            limits = Range(maximum=LARGEST_INTEGER)
        if value not in limits:
            raise OutOfRange(f"{where or 'value'}={_shown(value)}: must be {limits}")
    return value


def _shown(value: float) -> str:
    if abs(value) <= 1 << 64:
        return str(value)
    try:
        return f"{value:.3e}"
    except OverflowError:  # an integer that no float holds
        return f"{'-' * (value < 0)}2**{int(value).bit_length() - 1}..."


def _item_path(where: str, index: int, item: Any) -> str:
    """Path of an item: by its name if it has one, as on the command line."""
    name = item.get("name") if isinstance(item, dict) else None
    return f"{where}.{shortened(name, 100) if name and isinstance(name, str) else index}"


def _section_from_plain(section: type, value: Any, *, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{where or section.__name__}: expected an object with fields, got {brief(value)}")
    fields: dict[str, Any] = {}
    for key, part in value.items():
        path = f"{where}.{key}".lstrip(".")
        fields[key] = from_plain(field_type(section, key, where=path), part, where=path)
    try:
        return section(**fields)
    except TypeError as error:
        raise InputError(f"{where or section.__name__}: {error}") from None


def _member_from_plain(hint: Any, value: Any, *, where: str) -> Any:
    for member in _union_members(hint):
        if member is type(None):
            if value is None:
                return None
            continue
        if dataclasses.is_dataclass(member) and isinstance(value, dict):
            return from_plain(member, value, where=where)
        try:
            return from_plain(member, value, where=where)
        except OutOfRange:
            raise
        except InputError:
            continue
    raise InputError(f"{where or 'value'}={brief(value)}: expected {_name(hint)}")


def _is_text(hint: Any) -> bool:
    return hint is str or hint == FilePath


def _union_members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _name(hint: Any) -> str:
    if hint == FilePath:
        return "a path"
    if typing.get_origin(hint) is Annotated:
        return f"{_name(hint.__origin__)} {hint.__metadata__[0]}".replace("number at", "number of at")
    if typing.get_origin(hint) is tuple:
        return f"a list of {_name(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_name(member) for member in _union_members(hint))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    return names.get(hint, str(hint))


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value with its dotted path, in declaration order; `config` is a tree, or one read from JSON."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = to_plain(config)
    if isinstance(config, dict):
        for name, value in config.items():
            yield from leaves(value, f"{prefix}.{name}".lstrip("."))
    elif isinstance(config, list) and config and isinstance(config[0], dict):
        for index, item in enumerate(config):
            yield from leaves(item, f"{prefix}.{item.get('name', index)}")
    else:
        yield prefix, config


def difference(left: Any, right: Any) -> list[tuple[str, Any, Any]]:
    """`(path, left value, right value)` for every leaf that differs; a missing leaf shows as None."""
    old, new = dict(leaves(left)), dict(leaves(right))
    paths = list(old) + [path for path in new if path not in old]
    return [(path, old.get(path), new.get(path)) for path in paths if old.get(path) != new.get(path)]


@functools.cache
def field_help(section: type) -> dict[str, str]:
    """The string literal under each field of a dataclass, inherited ones too: the help text, read from the source."""
    tree = ast.parse(inspect.cleandoc(inspect.getsource(section)))
    body = cast(ast.ClassDef, tree.body[0]).body
    inherited = (field_help(base) for base in reversed(section.__bases__) if dataclasses.is_dataclass(base))
    found = {name: text for texts in inherited for name, text in texts.items()}
    for statement, following in itertools.pairwise(body):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            found[statement.target.id] = " ".join(str(following.value.value).split())
    return found


def describe(config: Any, prefix: str = "") -> Iterator[Described]:
    """Every leaf with what it takes and its help: what `megaphi train RECIPE --fields` lists."""
    if isinstance(config, SectionOfKinds):
        meaning = (type(config).__doc__ or "").partition("\n")[0]
        yield Described(f"{prefix}.{KIND}", kind_of(type(config)), "what the recipe says", meaning)
    for name, hint in _hints(type(config)).items():
        value, path = getattr(config, name), f"{prefix}.{name}".lstrip(".")
        nested = value if isinstance(value, tuple) else (value,)
        if nested and all(dataclasses.is_dataclass(item) for item in nested):
            for index, item in enumerate(nested):
                suffix = f".{getattr(item, 'name', index)}" if isinstance(value, tuple) else ""
                yield from describe(item, path + suffix)
        else:
            yield Described(path, value, _name(hint), field_help(type(config)).get(name, ""))
