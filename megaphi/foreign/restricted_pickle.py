"""Pickles of other projects, read by a small interpreter of our own: Python's `pickle` is not used.

A pickle is a program for a stack machine. Here it runs with the opcodes that protocols 2 to 5 write for plain data, and
nothing that it names is looked up: a class or function becomes a `Name`, a call of one a `StandIn` that records what it
was given. What Python's own machine allows beside that is refused, because a few bytes of it take all memory, or time
without end: buffers by announced length, memo places in the billions, integers of a million digits, containers that
hold themselves or 2^60 copies of another. So every container carries its depth and the number of values that walking
through it would meet; both have limits, and a container that is part of another can no longer change, so that its
numbers stay true.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from megaphi.errors import InputError
from megaphi.foreign.files import brief, brief_reason

LARGEST_BYTES = 1 << 28
DEEPEST = 64
VALUES_PER_BYTE = 16
"""Limit of the values met when a pickle's value is walked through, which are more than it spells where it repeats."""
LONGEST_INTEGER = 32
"""Bytes of an integer: the state of a random generator takes 17."""
TEXT_AS_VALUES = 16
"""Characters or bytes of a text that count as one value."""
_MARK = object()
_PLAIN_KEYS = (str, bytes, bool, float, type(None))
_SMALL_INTEGER = 1 << 31


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle names and that was not called."""

    global_name: str
    """`module.name`."""


@dataclass(slots=True, eq=False)
class StandIn:
    """Record of a call of a named class or function, with the state and items given to its result."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None
    items: list[Any] = field(default_factory=list)
    """Values that were appended, and (key, value) of what was set."""

    def field(self, name: str) -> Any:
        """An attribute that the pickle set; None if it did not."""
        return self.state.get(name) if isinstance(self.state, dict) else None


@dataclass(slots=True, eq=False)
class _Built:
    """A container on the stack or in the memo."""

    value: Any
    """A list, dict, set, tuple or StandIn; or a `Name`."""
    values: int = 1
    depth: int = 1
    is_part: bool = False
    """It is part of another, and may not change any more."""


def read_pickle(content: bytes, *, where: str, is_expected: Callable[[str], bool] = lambda name: True) -> Any:
    """Read a pickle, with a `StandIn` for everything that is not a plain value.

    Args:
        where: names the file in errors.
        is_expected: whether a name (`module.name`) has a place in this pickle.

    Raises:
        InputError: it is too large, truncated, corrupted, hostile, or names something unexpected.
    """
    if len(content) > LARGEST_BYTES:
        raise InputError(f"{where} has {len(content):,} bytes, expected at most {LARGEST_BYTES:,}")
    try:
        return _Machine(content, is_expected).run()
    except _Unexpected as error:
        raise InputError(f"{where} {error}: it is not read") from None
    except (ValueError, LookupError, TypeError, struct.error) as error:
        raise InputError(f"{where} is corrupted or truncated: not a complete pickle ({brief_reason(error)})") from None


class _Unexpected(ValueError):
    """A name, or a way to write, that has no place in the data that is read here."""


class _Machine:
    """The stack machine, on one pickle. Methods raise ValueError, LookupError and TypeError where it is damaged."""

    def __init__(self, content: bytes, is_expected: Callable[[str], bool]) -> None:
        self._content, self._place = content, 0
        self._is_expected = is_expected
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._most_values = VALUES_PER_BYTE * len(content) + 1_000

    def run(self) -> Any:
        content, operations = self._content, _OPERATIONS
        while (code := content[self._place]) != _STOP:
            self._place += 1
            operation = operations[code]
            if operation is None:
                raise ValueError(f"the operation {code:#04x}, which plain data does not need")
            operation(self)
        result = self._stack.pop()
        return result.value if type(result) is _Built else result

    # Reading the program.

    def _take(self, count: int) -> bytes:
        start = self._place
        self._place = start + count
        if self._place > len(self._content):
            raise ValueError(f"it ends before {count:,} bytes that it announces")
        return self._content[start : self._place]

    def _byte(self) -> int:
        place = self._place
        self._place = place + 1
        return self._content[place]

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _line(self) -> str:
        end = self._content.index(b"\n", self._place)
        line = self._content[self._place : end].decode()
        self._place = end + 1
        return line

    # The stack.

    def _since_mark(self) -> list[Any]:
        stack = self._stack
        place = len(stack) - 1
        while stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("a mark is missing")
        items = stack[place + 1 :]
        del stack[place:]
        return items

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def _part(self, whole: _Built, value: Any) -> Any:
        """Make `value` a part of `whole`; returns it as it is outside of the machine."""
        if type(value) is _Built:
            value.is_part = True
            whole.values += value.values
            whole.depth = max(whole.depth, value.depth + 1)
            value = value.value
        else:
            whole.values += 1 + (len(value) // TEXT_AS_VALUES if isinstance(value, str | bytes) else 0)
        if whole.is_part:
            raise _Unexpected("changes a container that is a part of another, or of itself")
        if whole.depth > DEEPEST or whole.values > self._most_values:
            raise _Unexpected(f"holds containers within each other, {whole.depth} deep, of {whole.values:,} values")
        return value

    def _open(self, *kinds: type) -> _Built:
        """The container on top of the stack, to be filled."""
        whole = self._stack[-1]
        if type(whole) is not _Built or not isinstance(whole.value, kinds):
            raise TypeError(f"filling {brief(whole)}")
        return whole

    # Operations: what each pushes.

    def tuple_of(self, items: list[Any]) -> None:
        whole = _Built(())
        whole.value = tuple([self._part(whole, item) for item in items])
        self._stack.append(whole)

    def last(self, count: int) -> None:
        self.tuple_of([self._pop() for _ in range(count)][::-1])

    def integer(self, length: int) -> None:
        if length > LONGEST_INTEGER:
            raise _Unexpected(f"has an integer of {length:,} bytes")
        self._stack.append(int.from_bytes(self._take(length), "little", signed=True))

    def append(self, items: list[Any]) -> None:
        whole = self._open(list, StandIn)
        target = whole.value if isinstance(whole.value, list) else whole.value.items
        target.extend([self._part(whole, item) for item in items])

    def set_items(self, items: list[Any]) -> None:
        whole = self._open(dict, StandIn)
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            pair = self._key(self._part(whole, key)), self._part(whole, value)
            if isinstance(whole.value, dict):
                whole.value[pair[0]] = pair[1]
            else:
                whole.value.items.append(pair)

    def add(self, items: list[Any]) -> None:
        whole = self._open(set)
        whole.value.update(self._key(self._part(whole, item)) for item in items)

    @staticmethod
    def _key(value: Any) -> Any:
        """A key of a dict; what is no plain value is one by its identity: hashing costs what a pickle wants it to."""
        is_plain = isinstance(value, _PLAIN_KEYS) or (type(value) is int and abs(value) < _SMALL_INTEGER)
        if is_plain or isinstance(value, StandIn | Name):
            return value
        if isinstance(value, list | dict | set):
            raise TypeError(f"the key {brief(value)}")
        return StandIn("key", (value,))

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no text")
        whole = f"{module}.{name}"
        if not self._is_expected(whole):
            raise _Unexpected(f"names {whole if whole.isprintable() else ascii(whole)}, which has no place in it")
        self._stack.append(_Built(Name(whole), is_part=True))

    def call(self, named: bool = False) -> None:
        """Replace a name, its arguments (and named arguments) by a stand-in."""
        more = self._pop() if named else _Built({})
        arguments, called = self._pop(), self._pop()
        if not all(type(one) is _Built for one in (more, arguments, called)):
            raise TypeError("a call of no name")
        is_call = isinstance(called.value, StandIn | Name)
        if not (is_call and isinstance(arguments.value, tuple) and isinstance(more.value, dict)):
            raise TypeError("a call of no name, or without arguments")
        before = called.value.arguments if isinstance(called.value, StandIn) else ()
        name = called.value.name if isinstance(called.value, StandIn) else called.value.global_name
        whole = _Built(None)
        parts = [self._part(whole, one) for one in (called, arguments, more)]
        whole.value = StandIn(name, (*before, *parts[1], *parts[2].values()))
        self._stack.append(whole)

    def build(self) -> None:
        state = self._pop()
        whole = self._open(StandIn)
        whole.value.state = self._part(whole, state)

    def persistent(self) -> None:
        whole = _Built(None)
        whole.value = StandIn("persistent", (self._part(whole, self._pop()),))
        self._stack.append(whole)

    def put(self, place: int) -> None:
        if self._stack[-1] is _MARK:
            raise ValueError("a mark where a value should be")
        self._memo[place] = self._stack[-1]

    def frozen(self) -> None:
        whole = _Built(None)
        whole.value = frozenset(self._key(self._part(whole, item)) for item in self._since_mark())
        self._stack.append(whole)

    def protocol(self) -> None:
        if not 2 <= self._byte() <= 5:
            raise _Unexpected("is a pickle of another protocol than 2 to 5")


def _pushes(make: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine._stack.append(make(machine))


def _text(size: int) -> Callable[[_Machine], None]:
    return _pushes(lambda machine: machine._take(machine._number(size)).decode("utf-8", "surrogatepass"))


def _bytes(size: int) -> Callable[[_Machine], None]:
    return _pushes(lambda machine: machine._take(machine._number(size)))


_STOP = ord(".")
_BY_LETTER: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": _Machine.protocol,
    b"\x95": lambda machine: machine._take(8) and None,  # a frame: only a hint for reading
    b"(": lambda machine: machine._stack.append(_MARK),
    b"0": lambda machine: machine._stack.pop() and None,
    b"1": lambda machine: machine._since_mark() and None,
    b"N": lambda machine: machine._stack.append(None),
    b"\x88": lambda machine: machine._stack.append(True),
    b"\x89": lambda machine: machine._stack.append(False),
    b"J": _pushes(lambda machine: int.from_bytes(machine._take(4), "little", signed=True)),
    b"K": _pushes(lambda machine: machine._byte()),
    b"M": _pushes(lambda machine: machine._number(2)),
    b"\x8a": lambda machine: machine.integer(machine._byte()),
    b"\x8b": lambda machine: machine.integer(machine._number(4)),
    b"G": _pushes(lambda machine: struct.unpack(">d", machine._take(8))[0]),
    b"\x8c": _text(1),
    b"X": _text(4),
    b"\x8d": _text(8),
    b"C": _bytes(1),
    b"B": _bytes(4),
    b"\x8e": _bytes(8),
    b"]": _pushes(lambda machine: _Built([])),
    b"}": _pushes(lambda machine: _Built({})),
    b"\x8f": _pushes(lambda machine: _Built(set())),
    b")": _pushes(lambda machine: _Built(())),
    b"\x85": lambda machine: machine.last(1),
    b"\x86": lambda machine: machine.last(2),
    b"\x87": lambda machine: machine.last(3),
    b"t": lambda machine: machine.tuple_of(machine._since_mark()),
    b"a": lambda machine: machine.append([machine._pop()]),
    b"e": lambda machine: machine.append(machine._since_mark()),
    b"s": lambda machine: machine.set_items([machine._pop(), machine._pop()][::-1]),
    b"u": lambda machine: machine.set_items(machine._since_mark()),
    b"\x90": lambda machine: machine.add(machine._since_mark()),
    b"\x91": _Machine.frozen,
    b"c": lambda machine: machine.name(machine._line(), machine._line()),
    b"\x93": lambda machine: machine.name(*[machine._pop(), machine._pop()][::-1]),
    b"R": _Machine.call,
    b"\x81": _Machine.call,
    b"\x92": lambda machine: machine.call(named=True),
    b"b": _Machine.build,
    b"Q": _Machine.persistent,
    b"q": lambda machine: machine.put(machine._byte()),
    b"r": lambda machine: machine.put(machine._number(4)),
    b"\x94": lambda machine: machine.put(len(machine._memo)),
    b"h": _pushes(lambda machine: machine._memo[machine._byte()]),
    b"j": _pushes(lambda machine: machine._memo[machine._number(4)]),
}
_OPERATIONS = [_BY_LETTER.get(bytes([code])) for code in range(256)]
