"""Files of records and texts, as tokenising, fine-tuning and evaluation read them: JSON, Parquet, each packing."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.fuzz.structured import (
    gzip_content,
    json_line,
    json_value,
    parquet_footer,
    parquet_page,
    zstandard_content,
)
from tests.fuzz.target import Target

WORDS = "formula sentence theorem Größe 数学 \u2028 \U0001f600 \\frac{a}{b}".split(" ")
RECORDS = [
    {"text": " ".join(WORDS[: 1 + number % 8]) * (1 + number % 3), "id": number, "url": f"http://example.org/{number}",
     "metadata": {"score": number / 7, "tags": ["a", None, True]}, "history": ["read"]}
    for number in range(24)
]  # fmt: skip
LINES = "\n".join(json.dumps(record, ensure_ascii=number % 2 == 0) for number, record in enumerate(RECORDS)).encode()
TOKENS = (b'{"text": "a"}\n', b'"text"', b'{"text": ', b"\\ud800", b"\\u0000", b"\xe2\x80\xa8", b"[" * 3_000, b"PAR1")
PACKED = (
    b"\x1f\x8b\x08\0\0\0\0\0\0\xff",
    b"\x28\xb5\x2f\xfd",
    b"\x50\x2a\x4d\x18\xff\xff\xff\xff",
    b"BZh9",
    b"\xfd7zXZ\0",
)


def read_texts(name: str, content: bytes) -> None:
    """All texts of a file, with the bad records named together, as `megaphi tokenize` reads it."""
    from megaphi.data.text.bad_records import BadRecords
    from megaphi.data.text.documents import placed_records, placed_texts, plan_pieces
    from megaphi.data.text.input_files import find_files

    Path(name).write_bytes(content)
    bad = BadRecords("error")
    (path,) = find_files([name])
    for piece in plan_pieces(path, piece_bytes=max(1_000, len(content) // 8)):
        for _ in placed_texts(piece, refuse=bad.add):
            pass
        if piece.format.kind != "text":
            for _ in placed_records(piece, refuse=bad.add):
                pass
    bad.raise_if_refused()


def bombs(pack: Callable[[bytes], bytes]) -> list[bytes]:
    """Much out of little: a long line, many empty lines, one long text."""
    return [pack(b'{"text": "' + b"a" * (600 << 20)), pack(b"\n" * (64 << 20)), pack(LINES + b"\n" + bytes(64 << 20))]


def parquet_files() -> Sequence[bytes]:
    """Small files with the encodings, packings and types that there are."""
    import datetime
    import decimal
    import io

    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({
        "text": [record["text"] for record in RECORDS],
        "id": [record["id"] for record in RECORDS],
        "when": [datetime.datetime(2024, 1, 1 + number) for number in range(24)],
        "list": [[number] * (number % 3) for number in range(24)],
        "object": [{"a": number, "b": None} for number in range(24)],
        "price": [decimal.Decimal(number) for number in range(24)],
        "bytes": [bytes([number]) for number in range(24)],
    })  # fmt: skip
    found = []
    for settings in ({"compression": "none", "use_dictionary": False}, {"compression": "snappy"},
                     {"compression": "zstd"},
                     {"compression": "gzip", "data_page_version": "2.0", "row_group_size": 7}):  # fmt: skip
        file = io.BytesIO()
        pyarrow.parquet.write_table(table, file, **settings)
        found.append(file.getvalue())
    return found


PARQUET_BYTES = 2 << 30
"""Bytes of a batch, and those that Arrow's pool may hold beside it."""


def parquet_bombs() -> Sequence[bytes]:
    """Few bytes that say much: values that take none in a list, one number in a list, one long value in many rows."""
    import io

    import pyarrow
    import pyarrow.parquet

    offsets = pyarrow.array([0, 100_000_000], pyarrow.int32())
    numbers = pyarrow.repeat(pyarrow.scalar(0, pyarrow.int8()), 100_000_000)
    long = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 100, pyarrow.int32()), ["a" * (4 << 20)])
    tables = [
        *({"text": ["a"], "list": pyarrow.ListArray.from_arrays(offsets, each)} for each in (
            pyarrow.nulls(100_000_000), numbers)),
        {"text": long},
        {"text": ["a" * (300 << 20)]},
        {"text": ["a"] * 1_024, "bytes": pyarrow.nulls(1_024, pyarrow.binary(1 << 20))},
    ]  # fmt: skip
    found = []
    for table in tables:
        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(table), file, compression="zstd")
        found.append(file.getvalue())
    return found


def packed_target(ending: str, pack: Callable[[bytes], bytes], **more: object) -> Target:
    return Target(
        name=f"json lines {ending}",
        run=partial(read_texts, f"input.jsonl.{ending}"),
        seeds=lambda: [pack(LINES), pack(LINES[:500]) + pack(LINES[500:])],
        crafted=partial(bombs, pack),
        tokens=PACKED,
        memory_bytes=1 << 30,
        **more,  # type: ignore[arg-type]
    )


def pack_zstandard(content: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(3).compress(content)


def pack_gzip(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


TARGETS = (
    Target(
        name="json lines",
        run=partial(read_texts, "input.jsonl"),
        seeds=lambda: [LINES, LINES.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + LINES[:400]],
        mutators=(json_line,),
        tokens=TOKENS,
        suffixes=(".jsonl", ".ndjson"),
        memory_bytes=256 << 20,
    ),
    Target(
        name="json values",
        run=partial(read_texts, "input.json"),
        seeds=lambda: [json.dumps(RECORDS, indent=1).encode(), json.dumps({"data": RECORDS[:9]}).encode(), LINES],
        mutators=(json_value,),
        tokens=TOKENS,
        suffixes=(".json",),
        memory_bytes=256 << 20,
    ),
    Target(name="plain text", run=partial(read_texts, "input.txt"), seeds=lambda: [LINES, b"\xef\xbb\xbfWords."]),
    packed_target("gz", pack_gzip, mutators=(gzip_content(json_line),)),
    packed_target("zst", pack_zstandard, mutators=(zstandard_content(json_line),)),
    packed_target("bz2", partial(bz2.compress, compresslevel=1)),
    packed_target("xz", partial(lzma.compress, preset=0)),
    Target(
        name="parquet",
        run=partial(read_texts, "input.parquet"),
        seeds=parquet_files,
        crafted=parquet_bombs,
        memory_bytes=PARQUET_BYTES,
        mutators=(parquet_footer, parquet_page),
        framed=0.8,
        tokens=(b"PAR1", b"\x15\xfe\xff\xff\xff\x0f", b"\x15\x02"),
        suffixes=(".parquet",),
        imports=("pyarrow.parquet",),
    ),
)
