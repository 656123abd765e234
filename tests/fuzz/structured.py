"""Damage that keeps a format's frame: values within JSON, members within ZIP, elements within XML, packed content.

Plain bytes damaged at random seldom come past a checksum or a parser; these reach what lies behind.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

from tests.fuzz.mutators import BYTES, EDGES
from tests.fuzz.target import Mutator

JSON_VALUES: tuple[Any, ...] = (
    None, True, "", "\0", "\ud800", "../../x", "a" * 70_000, [], {}, [[]], [None], float("nan"), float("inf"), 1e308,
    -0.0, 0.5, *EDGES, {"a": {"b": [1]}}, 10**400,
)  # fmt: skip
DEEP = 5_000


def json_value(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Change one place of a JSON text: another value, a key gone, doubled or renamed, a value nested deeply."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return draw.choice(BYTES)(content, seeds, draw)
    text = json.dumps(_changed(value, draw))
    return text.replace('"<deep>"', "[" * DEEP + "]" * DEEP).encode()


def _changed(value: Any, draw: random.Random) -> Any:
    """The value with one place changed, drawn on the way down."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.15:
        return "<deep>" if draw.random() < 0.05 else draw.choice(JSON_VALUES)
    copy = value.copy()
    key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
    kind = draw.random()
    if kind < 0.1:
        del copy[key]
    elif kind < 0.2 and isinstance(copy, dict):
        copy[draw.choice(("", "__proto__", "a\0b", "../x", *copy))] = copy.pop(key)
    elif kind < 0.3 and isinstance(copy, list):
        copy = copy[: key + 1] + copy[key:] * draw.choice((1, 2, 50))
    else:
        copy[key] = _changed(value[key], draw)
    return copy


def json_line(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Change one line of a file of JSON lines."""
    lines = content.split(b"\n")
    at = draw.randrange(len(lines))
    lines[at] = json_value(lines[at], seeds, draw)
    return b"\n".join(lines)


def json_header(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Change the JSON behind a length of eight bytes, as safetensors begins; the length fits again, mostly."""
    length = struct.unpack("<Q", content[:8].ljust(8, b"\0"))[0]
    header = json_value(content[8 : 8 + length], seeds, draw)
    said = len(header) if draw.random() < 0.9 else draw.choice(EDGES) % (1 << 64)
    return struct.pack("<Q", said) + header + content[8 + length :]


def zip_member(*inner: Mutator) -> Mutator:
    """Change a member of a ZIP file by one of `inner` or as plain bytes; or its name, or its size as it is said."""

    def change(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = [(each.filename, archive.read(each)) for each in archive.infolist()]
        except Exception:  # damaged already
            return draw.choice(BYTES)(content, seeds, draw)
        if not members:
            return content
        at = draw.randrange(len(members))
        name, data = members[at]
        kind = draw.random()
        if kind < 0.1:
            name = draw.choice(("../../x", "/etc/x", "a\0b", "a" * 60_000, "C:\\x", "x/../../y", name.upper(), ""))
        elif kind < 0.15:
            data = bytes(draw.choice((1_000, 5_000_000)))
        elif kind < 0.2 and sum(len(data) for _, data in members) < 1_000_000:
            members += members * draw.choice((1, 10))
        else:
            data = draw.choice((*inner, *BYTES))(data, seeds, draw)
        members[at] = (name, data)
        return zipped(members)

    return change


def zipped(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A ZIP file of these members, whatever their names are."""
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            information = zipfile.ZipInfo("x")
            information.filename = name
            information.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(information, data)
    return file.getvalue()


ENTITIES = b"<!DOCTYPE x [<!ENTITY a '%s'>%s]>" % (b"b" * 100, b"".join(
    b"<!ENTITY %s '%s'>" % (bytes([98 + level]), b"&%c;" % (97 + level) * 50) for level in range(8)))  # fmt: skip


def xml_element(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Delete, double, nest or rename an element or its attributes, or expand entities in it."""
    tags = list(re.finditer(rb"<(/?)([\w:.-]++)([^<>]*+)>", content[:2_000_000]))
    if not tags:
        return draw.choice(BYTES)(content, seeds, draw)
    tag = draw.choice(tags)
    before, whole, after = content[: tag.start()], tag[0], content[tag.end() :]
    match draw.randrange(7):
        case 0:
            return before + after
        case 1:
            return before + whole * draw.choice((2, 100, 3_000)) + after
        case 2:
            other = draw.choice(tags)
            return before + b"<" + tag[1] + other[2] + other[3] + b">" + after
        case 3:
            return before + b"<" + tag[1] + tag[2] + b" a='" + b"x" * draw.choice((10, 100_000)) + b"'>" + after
        case 4:
            return ENTITIES + before + whole + b"&i;" + after
        case 5:
            other = draw.choice(tags)
            start, end = sorted((tag.start(), other.end()))
            return content[:end] + content[start:end] * draw.choice((1, 3, 200)) + content[end:]
        case _:
            name = tag[2]
            return before + b"<%s>" % name * 400 + whole + b"</%s>" % name * 400 + after


def gzip_content(*inner: Mutator) -> Mutator:
    """Change what a gzip holds by one of `inner` or as plain bytes."""

    def change(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
        try:
            plain = zlib.decompressobj(wbits=31).decompress(content, 8 << 20)
        except zlib.error:
            return draw.choice(BYTES)(content, seeds, draw)
        return gzip.compress(draw.choice((*inner, *BYTES))(plain, seeds, draw), 1, mtime=0)

    return change


def zstandard_content(*inner: Mutator) -> Mutator:
    """Change what a zstandard frame holds by one of `inner` or as plain bytes."""

    def change(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
        import zstandard

        try:
            plain = zstandard.ZstdDecompressor().decompressobj().decompress(content)
        except zstandard.ZstdError:
            return draw.choice(BYTES)(content, seeds, draw)
        return zstandard.ZstdCompressor().compress(draw.choice((*inner, *BYTES))(plain, seeds, draw))

    return change


INTEGERS = re.compile(rb"[\x15\x16\x25\x26\x35\x36\x45\x46]([\x80-\xff]{0,9}+[\x00-\x7f])")
"""Numbers of Thrift's compact protocol behind the byte that says where in its structure they belong."""


def parquet_footer(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Change a number or some bytes of the metadata, whose length fits again."""
    length = int.from_bytes(content[-8:-4], "little")
    if not 0 < length <= len(content) - 8:
        return draw.choice(BYTES)(content, seeds, draw)
    start = len(content) - 8 - length
    footer = content[start:-8]
    numbers = list(INTEGERS.finditer(footer))
    if numbers and draw.random() < 0.8:
        found = draw.choice(numbers)
        other = _variable_length(draw.choice(EDGES) if draw.random() < 0.7 else draw.randrange(-8, 64))
        footer = footer[: found.start(1)] + other + footer[found.end(1) :]
    else:
        footer = draw.choice(BYTES)(footer, [footer], draw)
    return content[:start] + footer + len(footer).to_bytes(4, "little") + content[-4:]


def parquet_page(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Change a number of a page's header, or bytes of a page, in their place."""
    numbers = list(INTEGERS.finditer(content, 4, max(4, len(content) - 1_500)))
    if not numbers:
        return draw.choice(BYTES)(content, seeds, draw)
    found = draw.choice(numbers)
    if draw.random() < 0.5:
        other = bytes(byte & 0x80 | draw.randrange(128) for byte in found[1])
        return content[: found.start(1)] + other + content[found.end(1) :]
    changed = bytearray(content)
    changed[min(found.end() + draw.randrange(64), len(content) - 1)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _variable_length(number: int) -> bytes:
    """A number as Thrift writes it: zigzag, seven bits in a byte."""
    rest = (number << 1 ^ number >> 63) & (1 << 64) - 1
    groups = []
    while rest >= 128:
        groups.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*groups, rest])
