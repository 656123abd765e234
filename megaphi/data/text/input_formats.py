"""Formats of files of documents or records: the name tells what is in a file, its content the rest.

The rest is its compression, and whether a .json holds one record per line (as Megatron's tools take it) or one value
(as Hugging Face writes it). A file whose name tells nothing, such as `part-00000`, is known by its content alone.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from megaphi.data.text.json_values import LONGEST_VALUE
from megaphi.data.text.unpacking import PACKING_OF_ENDING, Packing, packing_of, unpacked_blocks
from megaphi.errors import InputError
from megaphi.json_text import parse_json

Content = Literal["records", "text"]

RECORD_ENDINGS = (".jsonl", ".ndjson", ".json")
TEXT_ENDINGS = (".txt", ".md")
PARQUET = ".parquet"


class Format(NamedTuple):
    """Format of a file: what its bytes are when decompressed, and how they are compressed."""

    kind: Literal["lines", "values", "parquet", "text"]
    """`lines` hold one JSON record each, `values` are anything else of JSON; a text is one document."""
    packing: Packing | None = None


def ending_of(path: Path) -> str:
    """The ending that tells what is in a file, in lower case, without that of its compression."""
    name = path.name.lower()
    for packed in PACKING_OF_ENDING:
        name = name.removesuffix(packed)
    return Path(name).suffix


def content_of_name(path: Path) -> Content | None:
    """Kind of content that a file's name announces; None if it is none that we read."""
    if ending_of(path) in RECORD_ENDINGS or path.name.lower().endswith(PARQUET):
        return "records"
    return "text" if ending_of(path) in TEXT_ENDINGS else None


def format_of(path: Path) -> Format | None:
    """Format of a file; None if neither its name nor its content tells it.

    Raises:
        InputError: it cannot be decompressed, or there is no such file.
    """
    ending, packing = ending_of(path), packing_of(path)
    if ending in TEXT_ENDINGS:
        return Format("text", packing)
    if ending in RECORD_ENDINGS and ending != ".json":
        return Format("lines", packing)
    if path.name.lower().endswith(PARQUET):
        return Format("parquet")
    kind = _kind_of_json(path, packing)
    if ending == ".json":
        return Format(kind or "lines", packing)
    return Format(kind, packing) if kind else None


def _kind_of_json(path: Path, packing: Packing | None) -> Literal["lines", "values", "parquet"] | None:
    """By the first two lines: records that are one line each are lines, whatever follows; None if it is not JSON."""
    blocks = unpacked_blocks(path, packing)
    head = next(blocks, b"")
    if head.startswith(b"PAR1"):
        return "parquet"
    begin = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if begin != b"{":
        return "values" if begin == b"[" else None
    lines = _two_lines([head], blocks)
    if len(lines) == 1:
        record = _record_or_none(lines[0])
        return "values" if record is None or isinstance(record.get("data"), list) else "lines"
    return "lines" if any(_record_or_none(line) is not None for line in lines) else "values"


def _two_lines(held: list[bytes], blocks: Iterator[bytes]) -> list[bytes]:
    """The first two lines that are not blank, as far as they are worth reading."""
    while True:
        content = b"".join(held)
        lines = [line for line in content.split(b"\n", 64) if line and not line.isspace()]
        if len(lines) > 2 or len(content) > LONGEST_VALUE or not (more := list(_some(blocks, len(content)))):
            return lines[:2]
        held = [content, *more]


def _some(blocks: Iterator[bytes], wanted: int) -> Iterator[bytes]:
    while wanted > 0 and (block := next(blocks, b"")):
        wanted -= len(block)
        yield block


def _record_or_none(line: bytes) -> dict[str, Any] | None:
    try:
        record = parse_json(line)
    except InputError:
        return None
    return record if isinstance(record, dict) else None
