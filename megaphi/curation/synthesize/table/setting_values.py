"""Readers of single values of the table: each returns the value, or raises InputError that says what is taken."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from megaphi.errors import InputError, did_you_mean


def text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError("write a text that is not empty")
    return value.strip()


def texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise InputError('write a list of texts, as in ["a", "b"]')
    found = tuple(map(text, value))
    if len(set(found)) < len(found):
        raise InputError("an entry stands there twice: leave one out")
    return found


def words(value: Any) -> tuple[str, ...]:
    """One text, or a list of them."""
    return (text(value),) if isinstance(value, str) else texts(value)


def pattern(value: Any) -> str:
    try:
        re.compile(text(value), re.MULTILINE)
    except re.error as error:
        raise InputError(f"it is no regular expression: {error}") from None
    return value


def share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError("write a number from 0 to 1")
    return float(value)


def whole_number(minimum: int, maximum: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise InputError(f"write a whole number from {minimum} to {maximum:,}")
        return value

    return read


def range_of_numbers(minimum: float, maximum: float) -> Callable[[Any], tuple[float, float]]:
    def read(value: Any) -> tuple[float, float]:
        numbers = value if isinstance(value, list) else []
        plain = all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers)
        if len(numbers) != 2 or not plain or not minimum <= numbers[0] <= numbers[1] <= maximum:
            raise InputError(f"write [LEAST, MOST], two numbers from {minimum} to {maximum:,}")
        return numbers[0], numbers[1]

    return read


def one_of(known: Sequence[str]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in known:
            raise InputError(f"write one of {', '.join(known)}.{did_you_mean(str(value), known)}")
        return value

    return read
