"""A target that misbehaves in every way that the fuzzer has to notice: what happens is the input's first word."""

from __future__ import annotations

import ctypes
import os
import time

from megaphi.errors import InputError
from tests.fuzz.target import Target


def misbehave(content: bytes) -> str | None:
    """Obey the input; anything else is refused."""
    match content.split(b" ")[0]:
        case b"read":
            return None
        case b"reason":
            return "empty"
        case b"segfault":
            ctypes.string_at(0)
        case b"exit":
            os._exit(3)
        case b"loop":
            while True:
                pass
        case b"wait":
            time.sleep(60)
        case b"raise":
            raise KeyError("x")
        case b"silent":
            raise InputError("")
        case b"fill":
            _kept.append(b"x" * (40 << 20))
        case b"more":
            _kept.append(bytes(8 << 30))
    raise InputError(f"{content[:10]!r} is no word: use one of those above")


_kept: list[bytes] = []
WORDS = (b"read", b"reason", b"segfault", b"exit", b"loop", b"wait", b"raise", b"silent", b"fill", b"more", b"other")
MISBEHAVING = Target(
    name="misbehaving",
    run=misbehave,
    seeds=lambda: [word + b" x" for word in WORDS],
    seconds=0.3,
    memory_bytes=30 << 20,
)
