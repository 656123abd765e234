"""Records of a .json file that is not one record a line: a list of them, or objects one after the other.

Hugging Face writes a list, or an object with the list under "data"; jq writes objects over many lines. A list may be
larger than memory: text is read block by block, and one value at a time is parsed out of a window of it. Where the
parser stops at the very end of the window the value may only be unfinished, and the window grows; where it stops
earlier, or nothing more comes, the text is wrong, and that is said with its line at once.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.json_text import NOT_UTF8, check_size, parse_value_at

LONGEST_VALUE = 1 << 28
"""Characters of one value: beyond, the text is taken for corrupted."""
UNFINISHED = 16
"""A word, number or escape that the window cuts in two stops the parser at most this far before its end."""
_SPACE = re.compile(r"[ \t\r\n]*")


def read_values(blocks: Iterable[bytes], path: Path) -> Iterator[tuple[str, Any]]:
    """(place, value) of every item of a list, or of every value of a text that is none.

    Raises:
        InputError: the text is no JSON from some place on (file and line named).
    """
    window = _Window(blocks, path)
    if window.peek() == "[":
        yield from _items(window)
        return
    if window.peek():
        first = window.value()
        data = first[1].get("data") if isinstance(first[1], dict) else None
        if window.peek() or not isinstance(data, list):
            yield first
        else:
            yield from ((f"{path}: data[{place}]", item) for place, item in enumerate(data))
    while window.peek():
        yield window.value()


def _items(window: _Window) -> Iterator[tuple[str, Any]]:
    window.skip()
    while window.peek() != "]":
        yield window.value()
        if window.peek() == ",":
            window.skip()
            if window.peek() == "]":
                raise window.error("a comma before the end of the list")
        elif window.peek() != "]":
            raise window.error("the list does not end" if not window.peek() else "expected a comma between records")
    window.skip()
    if window.peek():
        raise window.error("there is more text after the end of the list")


class _Window:
    """The part of a text that has been read and not been used yet."""

    def __init__(self, blocks: Iterable[bytes], path: Path) -> None:
        self._blocks = iter(blocks)
        self._path = path
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._ended = "", 0, False
        self._line, self._values = 1, 0

    def error(self, reason: str) -> InputError:
        return InputError(f"{self._path}:{self._line}: not JSON: {reason}")

    def peek(self) -> str:
        """The next character that is no space, "" at the end."""
        while True:
            self._advance(_SPACE.match(self._text, self._at).end())  # pyright: ignore[reportOptionalMemberAccess]
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        """Past the character that `peek` showed."""
        self._at += 1

    def value(self) -> tuple[str, Any]:
        """(place, value) of what begins at the next character."""
        self._values += 1
        where = f"{self._path}:{self._line} (record {self._values})"
        while True:
            try:
                value, end = parse_value_at(self._text, self._at)
            except JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - UNFINISHED
                if unfinished and len(self._text) - self._at <= LONGEST_VALUE and self._more():
                    self._check_size()
                    continue
                self._advance(error.pos)
                raise self.error(
                    error.msg.removesuffix(" at") + ("" if self.peek() else "; it ends too early")
                ) from None
            except InputError as error:
                raise InputError(f"{where}: not JSON: {error}") from None
            if end < len(self._text) or not self._more():  # a number may go on in the next block
                self._advance(end)
                return where, value

    def _check_size(self) -> None:
        try:
            check_size(self._text)
        except InputError as error:
            raise self.error(str(error)) from None

    def _advance(self, to: int) -> None:
        self._line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self) -> bool:
        """Read as much again as there is (one block at least); False at the end of the text."""
        wanted = len(self._text) - self._at
        parts, held = [self._text[self._at :]], 0
        while not self._ended and held <= wanted:
            block = next(self._blocks, b"")
            self._ended = not block
            try:
                parts.append(self._decode.decode(block, self._ended))
            except UnicodeDecodeError:
                raise InputError(f"{self._path}: {NOT_UTF8} (after line {self._line})") from None
            held += len(parts[-1])
        self._text, self._at = "".join(parts), 0
        return held > 0
