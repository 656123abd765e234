"""Files that somebody else wrote: opened, read whole and named without trusting them; failures are `InputError`s.

What looks like a model's folder may hold a pipe that nobody writes to (opening it waits for ever), a device without an
end, a gigabyte where a line is expected, a link to /etc/passwd, or a name with a path in it. So a file is opened if it
is a regular one, read if it is small enough, and passed on if it lies where it says. A parser's own exceptions, which
say nothing to the owner of the file, become one message (`damage_named`).
"""

from __future__ import annotations

import argparse
import os
import reprlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.foreign.visible_text import is_one_line
from megaphi.json_text import decode_text

SMALL_BYTES = 1 << 26
"""Size limit of a file that is read whole: the largest tokenizer.json has a third of it."""
TEXT_BYTES = 1 << 30
"""Size limit of a text or a list of records that is read whole."""
LONGEST_NAME, LONGEST_PATH = 255, 3_800
"""Bytes of the name of a file or folder, in every usual file system; of a path, with room for ours within 4,096."""
LINE_BYTES = 1 << 12
"""Size limit of a file that holds one line."""
DAMAGE = (
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, EOFError, struct.error),
    *(RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error),
)
"""Exceptions that a parser raises on content that it does not expect."""
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother, _BRIEF.maxlong = 3, 80, 80, 40


def open_regular(path: str | os.PathLike[str]) -> int:
    """A file descriptor for reading; the caller closes it.

    Raises:
        FileNotFoundError: nothing is there.
        InputError: it is no regular file, or cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{os.fspath(path)} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise InputError(f"{os.fspath(path)!r} is no path: {error}") from None
    return refuse_other_files(handle, path)


def refuse_other_files(handle: int, path: str | os.PathLike[str]) -> int:
    """Return the descriptor of an open file. Raises InputError, and closes it, if it is no regular one."""
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{os.fspath(path)} cannot be read: it is a folder, a pipe or a device, expected a file")
    return handle


def read_small(path: str | os.PathLike[str], *, largest: int = SMALL_BYTES) -> bytes:
    """The content of a file of at most `largest` bytes. Raises FileNotFoundError, InputError."""
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise InputError(f"{os.fspath(path)} has {size:,} bytes, expected at most {largest:,}: is it that file?")
        try:
            return file.read(size)  # of a larger number Python would allocate all
        except OSError as error:
            raise InputError(f"{os.fspath(path)} cannot be read: {error.strerror}") from None


def read_text(path: str | os.PathLike[str], *, largest: int = TEXT_BYTES) -> str:
    """A UTF-8 text of at most `largest` bytes. Raises InputError, also if nothing is there."""
    try:
        content = read_small(path, largest=largest)
    except FileNotFoundError:
        raise InputError(f"there is no file {os.fspath(path)}") from None
    try:
        return decode_text(content)
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from None


def read_line(path: str | os.PathLike[str]) -> str:
    """The one line of text that a file holds, without blanks around it. Raises InputError."""
    line = read_text(path, largest=LINE_BYTES).strip()
    if not line.isprintable():
        raise InputError(f"{os.fspath(path)} holds {brief(line)}, expected one line of text")
    return line


def is_plain_name(name: Any) -> bool:
    """Return whether `name` is the name of a file in a folder: printable, short, and no path."""
    is_text = isinstance(name, str) and 0 < len(name) <= 255 and name.isprintable()
    return is_text and "/" not in name and name not in (".", "..")


class NoPath(InputError, argparse.ArgumentTypeError):
    """A text that is not taken as a path. As the type of an argument too it is shown with its own message."""


def one_line_path(path: str) -> str:
    """Return a path that a terminal and a log show in one line, and that a file may have.

    Every path that a user names or a pattern finds comes through here: with a line's end in it, it could print a second
    line that looks like ours wherever it is named. Of a name that no file can have, Python's functions raise errors of
    their own where they only ask whether it is there.

    Raises:
        NoPath: a character of it is no letter but a control, or a name in it is too long. URLs may have any length.
    """
    if not is_one_line(path):
        raise NoPath(f"the path {path!r} holds a control character: rename it")
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        raise NoPath(f"the path {brief(path)} holds a character that no name of a file has") from None
    is_too_long = len(encoded) > LONGEST_PATH or max(map(len, encoded.split(b"/"))) > LONGEST_NAME
    if is_too_long and "://" not in path:
        raise NoPath(f"the path {brief(path)}, or a name in it, is longer than that of any file")
    return path


def refuse_link_outside(path: Path) -> Path:
    """Return `path` unless it is a link that leaves its folder: a copy of it would carry another file of this machine.

    A snapshot in Hugging Face's cache is links into the folder of the model's `blobs`, which belong to it.

    Raises:
        InputError: the link leads elsewhere.
    """
    folder = path.parent.resolve()
    homes = (folder, folder.parents[1] / "blobs") if folder.parent.name == "snapshots" else (folder,)
    target = Path(os.path.realpath(path))
    if not any(target.is_relative_to(home) for home in homes):
        raise InputError(
            f"{path} is a link to {target}, outside of its folder, and is not copied: put the file itself there"
        )
    return path


@contextmanager
def damage_named(path: str | os.PathLike[str], *, what: str) -> Iterator[None]:
    """Turn any exception that unexpected content causes in the block into an `InputError`: `path` is not `what`."""
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"{os.fspath(path)} is corrupted or truncated: not {what} ({brief_reason(error)})") from None


def brief_reason(error: BaseException) -> str:
    """An exception in a few words, whatever its message holds."""
    text = " ".join(str(error).split())[:160]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def brief(value: Any) -> str:
    """The `repr` of a value from a file, cut in depth and length: it takes no longer for a hostile one."""
    return _BRIEF.repr(value)
