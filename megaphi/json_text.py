"""JSON that somebody else wrote, read safely: every failure is an `InputError` that says what is wrong with the text.

`json.loads` fails in five ways: text that is not JSON, bytes that are not UTF-8, nesting that exhausts the
stack, an integer of more digits than Python converts, and NaN where a number must be one. Here the first three are
refused with the place in the text, an integer that is too long is read as the float that it is nearest to (infinite,
as in every reader that knows floats only), and `constants=False` refuses NaN and Infinity, which JSON does not have.
Nesting has a limit of its own, far below the stack's, so that whatever walks through a value later has room to. Of a
key that comes twice the last one counts, unless `unique=True` refuses it: two readers may disagree about such a text.
The message names the error only; the caller adds file and line.
"""

from __future__ import annotations

import codecs
import json
import sys
from typing import Any, NoReturn, TypeGuard

from megaphi.errors import InputError

LONGEST_INTEGER = 4_300
"""Digits: the limit that Python sets itself, because its conversion takes quadratic time."""
MOST_VALUES = 1 << 24
"""Values of one record: about 60 bytes each in memory, for two in a text."""
DEEPEST = 128
"""Lists and objects within each other."""
TOO_DEEP = "its lists and objects are nested too deeply"
NOT_UTF8 = "not UTF-8 text, convert it first"
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


def parse_json(content: bytes | str, *, constants: bool = True, unique: bool = False) -> Any:
    """The one value that `content` holds.

    Args:
        constants: whether NaN, Infinity and -Infinity are numbers.
        unique: refuse an object with the same key twice.

    Raises:
        InputError: the error and its position within `content`.
    """
    text = decode_text(content) if isinstance(content, bytes) else content
    try:
        return (_UNIQUE if unique else _decoder(constants=constants)).decode(text)
    except json.JSONDecodeError as error:
        raise InputError(reason_of(error)) from None


def check_size(content: bytes | str) -> None:
    """Raise InputError for a large text of so many values that, as objects, they would take gigabytes."""
    if len(content) <= MOST_VALUES:
        return
    marks = (b",", b"[", b"{") if isinstance(content, bytes) else (",", "[", "{")
    values = sum(content.count(mark) for mark in marks)  # pyright: ignore[reportArgumentType]
    if values > MOST_VALUES:
        raise InputError(f"it holds more than {MOST_VALUES:,} values")


def _has_parts(value: Any) -> bool:
    """Return whether a list, or an object with one within, is to be looked into: most records are flat objects."""
    return isinstance(value, list) or (
        isinstance(value, dict) and any(isinstance(part, list | dict) for part in value.values())
    )


def _refuse_depth(value: Any) -> None:
    """Raise InputError for lists and objects that are nested deeper than `DEEPEST`; level by level, not recursively."""
    level = [[value]]
    for _ in range(DEEPEST + 1):
        parts = (part for whole in level for part in (whole.values() if isinstance(whole, dict) else whole))
        level = [part for part in parts if isinstance(part, list | dict)]
        if not level:
            return
    raise InputError(TOO_DEEP)


def parse_value_at(text: str, start: int) -> tuple[Any, int]:
    """The value that begins at `text[start]`, and where it ends. Raises JSONDecodeError, InputError (nesting)."""
    return _decoder(constants=True).raw_decode(text, start)


def decode_text(content: bytes) -> str:
    """UTF-8 with or without its mark. Raises `InputError` with the place of the first byte that is something else."""
    if content.startswith(_WIDE):
        raise InputError("UTF-16 or UTF-32 text (Windows writes it): save it as UTF-8")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        place = f"byte {error.start}" if line == 1 else f"line {line}"
        raise InputError(f"{NOT_UTF8} ({place})") from None


def reason_of(error: json.JSONDecodeError) -> str:
    """Describe the error in a text and its position, counted from 1."""
    place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"character {error.pos + 1:,}"
    hint = ""
    if "\0" in error.doc:
        hint = "; it holds NUL bytes: is it UTF-16 text, or a file that a crash left unwritten?"
    elif error.msg.startswith("Unterminated") or error.pos >= len(error.doc.rstrip()):
        hint = "; it ends too early"
    return f"{error.msg.removesuffix(' at')} at {place}{hint}"


def json_bytes(value: Any) -> bytes:
    """A readable file of `value`; a lone surrogate, as in a file name that is not UTF-8, is written as its escape."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


class _Decoder(json.JSONDecoder):
    """Decodes with numbers of any length, and says in words what else Python cannot do."""

    def __init__(self, **rules: Any) -> None:
        super().__init__(**rules)
        self._patient = json.JSONDecoder(parse_int=_whole_number, **rules)

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        value, end = self._raw_decode(s, idx)
        if _has_parts(value) and s.count("[", idx, end) + s.count("{", idx, end) > DEEPEST:
            _refuse_depth(value)
        return value, end

    def _raw_decode(self, s: str, idx: int) -> tuple[Any, int]:
        try:
            return super().raw_decode(s, idx)
        except RecursionError:
            raise InputError(TOO_DEEP) from None
        except (json.JSONDecodeError, InputError):
            raise
        except ValueError:  # an integer of too many digits; looking for one first would cost every other text
            return self._patient.raw_decode(s, idx)


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a number that a float holds; NaN and the infinities are such, `true` is none."""
    return type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= LONGEST_INTEGER else float(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise InputError(f"{name} is not a number of JSON")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise InputError(f"the key {next(name for name in found if names.count(name) > 1)!r} comes twice in an object")
    return found


_LENIENT, _STRICT = _Decoder(), _Decoder(parse_constant=_refuse_constant)
_UNIQUE = _Decoder(object_pairs_hook=_without_repetition)


def _decoder(*, constants: bool) -> json.JSONDecoder:
    return _LENIENT if constants else _STRICT
