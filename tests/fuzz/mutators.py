"""Damage to plain bytes: cut, flipped, doubled, spliced, with numbers at the edges and words of the format put in."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Sequence

from tests.fuzz.target import Mutator, Target

LARGEST_INPUT = 4_000_000
EDGES = (0, 1, -1, 127, 128, 255, 256, *(sign * (1 << bits) + step for bits in (15, 16, 31, 32, 40, 53, 61, 62, 63, 64)
         for sign in (1, -1) for step in (-1, 0, 1)))  # fmt: skip
EDGE_WORDS = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0.0", b"1e-320", b"9" * 5_000, b"0x7fffffff", b"null",
              b"true", b'""', b"[]", b"{}")  # fmt: skip
EVERYWHERE = (b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3\x28", b"\xed\xa0\x80", "\u202e\ufeff\U000e0001".encode(),
              b"../../../etc/passwd", b"/dev/zero", b"%s%n", b"\r\n", b"\x1b[2J")  # fmt: skip


def cut(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def delete(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + content[end:]


def double(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Repeat a part, seldom very often."""
    start, end = _span(content, draw)
    times = min(draw.choice((1, 1, 1, 2, 10, 1_000, 100_000)), LARGEST_INPUT // max(1, end - start))
    return content[:end] + content[start:end] * times + content[end:]


def flip(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Flip single bits."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8)) if content else 0):
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def overwrite(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Put any bytes in the place of some."""
    start, end = _span(content, draw)
    return content[:start] + draw.randbytes(min(end - start, 64)) + content[min(end, start + 64) :]


def splice(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Put a part of another input in the place of one, or between."""
    other = draw.choice(seeds)
    start, end = _span(other, draw)
    at, upto = _span(content, draw)
    return content[:at] + other[start:end] + content[at if draw.random() < 0.5 else upto :]


def binary_number(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Put a number at the edge of what it may be in the place of some bytes; often near the beginning or the end."""
    size = draw.choice((1, 2, 4, 4, 8, 8))
    number = draw.choice(EDGES) % (1 << 8 * size)
    packed = number.to_bytes(size, draw.choice(("little", "little", "big")))
    if size >= 4 and draw.random() < 0.1:
        packed = struct.pack("<d" if size == 8 else "<f", draw.choice((float("nan"), float("inf"), -0.0)))
    near = draw.choice((64, 4_096, len(content)))
    at = draw.randrange(max(1, min(near, len(content))))
    at = len(content) - at if draw.random() < 0.2 else at // size * size
    return content[:at] + packed + content[at + size :]


def written_number(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Put a number at the edge in the place of one written in digits."""
    numbers = list(re.finditer(rb"-?\d[\d.eE+-]*", content[:LARGEST_INPUT]))
    if not numbers:
        return binary_number(content, seeds, draw)
    found = draw.choice(numbers)
    word = draw.choice((*EDGE_WORDS, *(b"%d" % edge for edge in EDGES)))
    return content[: found.start()] + word + content[found.end() :]


BYTES: tuple[Mutator, ...] = (cut, delete, double, flip, overwrite, splice, binary_number, written_number)


def mutated(target: Target, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """One damaged input of a target."""
    content = draw.choice(seeds)
    tokens = (*target.tokens, *EVERYWHERE)
    plain = 0.0 if draw.random() < target.framed else 0.4
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        kind = draw.random()
        if kind < min(plain, 0.15):
            at = draw.randrange(len(content) + 1)
            content = content[:at] + draw.choice(tokens) + content[at:]
        elif kind >= plain and target.mutators:
            content = draw.choice(target.mutators)(content, seeds, draw)
        else:
            content = draw.choice(BYTES)(content, seeds, draw)
        content = content[:LARGEST_INPUT]
    return content


def _span(content: bytes, draw: random.Random) -> tuple[int, int]:
    """A part, mostly short."""
    start = draw.randrange(len(content) + 1)
    return start, min(len(content), start + min(20_000, int(draw.paretovariate(0.5))))
