"""Files that hold a secret: the key that a server asks for, and those that its clients send.

Whoever can write to such a file chooses the key, and whoever can read it has it. So its owner is this user or root, and
nobody else may read or write it, as ssh demands of its keys; members of its group may read. What is checked is the file
that is read, not its name.
"""

from __future__ import annotations

import os
import stat

from megaphi.errors import InputError
from megaphi.foreign.files import LINE_BYTES, open_regular
from megaphi.json_text import decode_text

_OF_OTHERS = stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


def read_key(path: str, *, option: str) -> str:
    """The one line of a key file, ASCII without blanks. `option` names the file in messages. Raises InputError."""
    try:
        with open(open_regular(path), "rb") as file:
            _check_owner(os.fstat(file.fileno()), path)
            key = decode_text(file.read(LINE_BYTES)).strip()
    except (OSError, InputError) as error:
        raise InputError(f"{option} {path}: cannot be read: {error}") from None
    if len(key.split()) != 1 or len(key) >= LINE_BYTES or not (key.isascii() and key.isprintable()):
        raise InputError(f"{option} {path}: must hold one key of ASCII without blanks")  # and does not show it
    return key


def _check_owner(status: os.stat_result, path: str) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise InputError(f"it belongs to user {status.st_uid}, who can change it: make a copy of your own")
    if status.st_mode & _OF_OTHERS:
        raise InputError(f"others than its owner may read or write it: chmod 600 {path}")
