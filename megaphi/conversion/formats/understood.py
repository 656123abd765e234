"""One rule for the metadata of every format (config.json, GGUF headers, Megatron's arguments): honour it or refuse it.

A name is honoured (it becomes part of the architecture), or does not affect the function at any value, or changes
nothing at the given value. Everything else is refused by name and value, including names that later versions add, which
a deny list would let through. null means unset, unless a list says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from megaphi.config import LARGEST_INTEGER
from megaphi.errors import shortened
from megaphi.foreign.files import brief

Test = Callable[[Any, Mapping[str, Any]], bool]
"""(value, all values) -> True if our model computes the same."""
_MOST_SHOWN = 20
_LONGEST_NAME = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Understood:
    """The names that the reader of a format knows."""

    honoured: Collection[str]
    """Names that the reader honours at any value, or refuses itself."""
    neutral: Collection[str] = ()
    """Names that do not affect the function at any value."""
    accepted_at: Mapping[str, Test]
    """Names that are refused unless the test accepts the value: our model has it, or it changes nothing."""

    def refused(self, given: Mapping[str, Any]) -> list[str]:
        """Names whose values are neither honoured nor known to change nothing."""
        return [name for name, value in given.items() if not self._is_known(name, value, given)]

    def _is_known(self, name: str, value: Any, given: Mapping[str, Any]) -> bool:
        if name in self.accepted_at:
            return self.accepted_at[name](value, given)
        return value is None or name in self.honoured or name in self.neutral


def off(value: Any, given: Mapping[str, Any]) -> bool:
    """null, false, zero, or empty."""
    return not value


def only(*values: Any) -> Test:
    """One of these; null has to be among them."""
    return lambda value, given: value in values


def positive(value: Any, given: Mapping[str, Any]) -> bool:
    """A number above zero."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and value != math.inf


def whole(value: Any, given: Mapping[str, Any]) -> bool:
    """A whole number above zero, which a file may write as 4096.0."""
    return positive(value, given) and value <= LARGEST_INTEGER and value == int(value)


def shown(given: Mapping[str, Any], names: Collection[str]) -> str:
    """`name=value, name=value` for a message: names as they are seen, long names, values and lists of names cut."""
    listed = [f"{shortened(name, _LONGEST_NAME)}={brief(given[name])}" for name in list(names)[:_MOST_SHOWN]]
    more = [f"and {len(names) - _MOST_SHOWN:,} more"] if len(names) > _MOST_SHOWN else []
    return ", ".join([*listed, *more])
