"""Read the texts of documents from files, one at a time: JSON lines, JSON, parquet, plain text; compressed or not.

`plan_pieces` cuts large files where they can be entered in the middle (plain JSON lines at byte offsets, parquet at row
groups); `read_piece` streams the texts of one piece. A record belongs to the piece in which its line begins, so pieces
of any size give the same documents in the same order. `placed_texts` gives each text with its place, `read_records`
whole records. The kind of a file is known by its name; whether it is compressed, and whether a .json holds one record
per line or one value, by its content. Errors in a record are reported with file and line.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

from megaphi.data.text.bad_records import Refuse, refuse_at_once
from megaphi.data.text.input_formats import Format, format_of
from megaphi.data.text.json_values import read_values
from megaphi.data.text.parquet_rows import open_parquet, rows_of_groups
from megaphi.data.text.unpacking import READ_BYTES, unpacked_blocks
from megaphi.errors import InputError
from megaphi.files import explain_read_errors
from megaphi.json_text import NOT_UTF8, check_size, parse_json

NEW_LINE = b"\n"
LINE_BREAKS = re.compile(rb"\n\n*")  # which is searched for as its first byte is
LONGEST_LINE = 1 << 28
"""Bytes of a line of JSON: a longer one is refused as a record, without being held."""
LARGEST_RATIO = 100
"""Bytes of a packed text for one of its file, beyond `LONGEST_LINE`; text seldom has more than 20."""
TOO_LONG = "a line of more than"


@dataclass(frozen=True, slots=True)
class FilePiece:
    """A part of a file: bytes [start, stop) of JSON lines, row groups [start, stop) of parquet, else all of it."""

    path: Path
    start: int
    stop: int
    size_bytes: int
    """Share of the file's bytes, for progress and for grouping pieces."""
    format: Format


class LineAt(NamedTuple):
    """The line of a file that begins at a byte; as text file:line, for which the file is read from its beginning."""

    path: Path
    byte: int

    def __str__(self) -> str:
        return f"{self.path}:{line_numbers(self.path, [self.byte])[self.byte]}"


Place = str | LineAt
"""The place of a record, for messages."""


def plan_pieces(path: Path, *, piece_bytes: int) -> list[FilePiece]:
    """Cut a file into pieces of about `piece_bytes`, where its format allows it."""
    with explain_read_errors(path):
        size, form = path.stat().st_size, format_of(path)
    if form is None:
        raise InputError(f"unknown file type: cannot read {path}")
    if form == Format("lines"):
        starts = range(0, size, piece_bytes)
        return [
            FilePiece(path, start, min(start + piece_bytes, size), min(piece_bytes, size - start), form)
            for start in starts
        ]
    if form.kind == "parquet":
        groups = open_parquet(path).num_row_groups
        pieces = max(1, min(groups, size // piece_bytes))
        bounds = [groups * index // pieces for index in range(pieces + 1)]
        return [FilePiece(path, start, stop, size // pieces, form) for start, stop in pairwise(bounds)]
    return [FilePiece(path, 0, size, size, form)]


def read_documents(path: str | os.PathLike[str], *, text_key: str = "text") -> Iterator[str]:
    """All texts of one file, in order."""
    for piece in plan_pieces(Path(path), piece_bytes=1 << 62):
        yield from read_piece(piece, text_key=text_key)


def read_records(
    path: Path, *, refuse: Refuse = refuse_at_once, columns: Collection[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of every JSON object or parquet row of a whole file; the place is what an error should name.

    Args:
        refuse: callback for values that are not records.
        columns: of a parquet file, those to read; of the others a record has the names, with `...` for a value.

    Raises:
        InputError: the file cannot be read or decompressed.
    """
    for piece in plan_pieces(path, piece_bytes=1 << 62):
        for where, record in placed_records(piece, refuse=refuse, columns=columns):
            yield str(where), record


def placed_records(
    piece: FilePiece, *, refuse: Refuse = refuse_at_once, columns: Collection[str] | None = None
) -> Iterator[tuple[Place, dict[str, Any]]]:
    """(place, record) of one piece, in order. See `read_records`."""
    if piece.format.kind == "parquet":
        yield from _rows(piece, columns=columns, refuse=refuse)
        return
    for where, record in _values(piece, refuse):
        if isinstance(record, dict):
            yield where, record
        else:
            refuse(where, f"expected a JSON object, found {kind_of(record)}")


def read_piece(piece: FilePiece, *, text_key: str = "text", refuse: Refuse = refuse_at_once) -> Iterator[str]:
    """Texts of one piece, in order; the empty ones too. See `placed_texts`."""
    return (text for _, text in placed_texts(piece, text_key=text_key, refuse=refuse))


def placed_texts(
    piece: FilePiece, *, text_key: str = "text", refuse: Refuse = refuse_at_once
) -> Iterator[tuple[Place, str]]:
    """(place, text) of one piece, in order; the empty ones too.

    Args:
        text_key: the field of a JSON record, or the column of a parquet file, that holds the text.
        refuse: takes records that are not what they should be.

    Raises:
        InputError: the file cannot be read or decompressed, or has no such column.
    """
    if piece.format.kind == "text":
        yield from _text_of_file(piece, refuse)
    elif piece.format.kind == "parquet":
        for where, row in _rows(piece, columns=[text_key], refuse=refuse, required=text_key):
            yield from _text(row[text_key], text_key=text_key, where=where, refuse=refuse)
    else:
        for where, record in _values(piece, refuse):
            if not isinstance(record, dict):
                refuse(where, f"expected a JSON object with a {text_key!r} field, found {kind_of(record)}")
            elif text_key not in record:
                keys = ", ".join(map(repr, record)) or "none"
                refuse(where, f"no {text_key!r} field; its fields are {keys} (--text-key chooses another)")
            else:
                yield from _text(record[text_key], text_key=text_key, where=where, refuse=refuse)


def _text(value: Any, *, text_key: str, where: Place, refuse: Refuse) -> Iterator[tuple[Place, str]]:
    if isinstance(value, str):
        yield where, value
    else:
        refuse(where, f"{text_key!r} is {kind_of(value)}, not text")


def _values(piece: FilePiece, refuse: Refuse) -> Iterator[tuple[Place, Any]]:
    """(place, JSON value) of everything in a piece."""
    path, form = piece.path, piece.format
    if form.kind == "values":
        yield from read_values(unpacked_blocks(path, form.packing), path)
        return
    if form.packing is None:
        lines = _lines_between(piece)
    else:
        numbered = _numbered_lines(unpacked_blocks(path, form.packing), path)
        lines = ((f"{path}:{number}", line) for number, line in numbered)
    for where, line in lines:
        if line is None:
            refuse(where, f"{TOO_LONG} {LONGEST_LINE:,} bytes")
        elif line and not line.isspace() and line != codecs.BOM_UTF8:
            try:
                check_size(line)
                value = parse_json(line)
            except InputError as error:
                refuse(where, f"not a JSON record: {error}")
            else:
                yield where, value


def _lines_between(piece: FilePiece) -> Iterator[tuple[Place, bytes | None]]:
    """The lines that begin within the piece; None for one that is too long."""
    with explain_read_errors(piece.path), open(piece.path, "rb") as file:
        if piece.start > 0:
            file.seek(piece.start - 1)
            _pass_line(file, piece.stop)  # the rest of a line that began earlier, or just the line break before
        while (start := file.tell()) < piece.stop and (line := file.readline(LONGEST_LINE + 1)):
            is_whole = len(line) <= LONGEST_LINE or line.endswith(NEW_LINE)
            if not is_whole:
                _refuse_no_text(line, piece.path)
            yield LineAt(piece.path, start), line if is_whole else None
            if not is_whole:
                _pass_line(file, piece.stop)


def _refuse_no_text(part: bytes, path: Path) -> None:
    """Raise InputError for a part of a line that is too long, if it has NUL bytes: the file is no text, or has a hole.

    Reading on behind it could take as long as the file says that it is, and a hole of a terabyte costs no disk.
    """
    if b"\0" in part:
        raise InputError(f"{path}: a line of more than {LONGEST_LINE:,} bytes that holds NUL bytes: it is no text")


def _pass_line(file: IO[bytes], stop: int) -> None:
    """Read on behind the next line break, or behind `stop`, in constant memory: a line of many pieces is read once."""
    part = b""
    while (left := stop - file.tell()) > 0 and not part.endswith(NEW_LINE):
        part = file.readline(min(READ_BYTES, left))
        if not part:
            return


def line_numbers(path: Path, starts: Iterable[int]) -> dict[int, int]:
    """Number of each line that begins at one of these bytes, by one pass over the file up to the last of them."""
    found: dict[int, int] = {}
    line, done = 1, 0
    with explain_read_errors(path), open(path, "rb") as file:
        for start in sorted(starts):
            while done < start and (block := file.read(min(READ_BYTES, start - done))):
                line += block.count(NEW_LINE)
                done += len(block)
            found[start] = line
    return found


def kind_of(value: Any) -> str:
    """A JSON value's type, in JSON's terms."""
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", str: "text"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _text_of_file(piece: FilePiece, refuse: Refuse) -> Iterator[tuple[Place, str]]:
    data = _whole(piece).removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(NEW_LINE, 0, error.start) + 1
        refuse(f"{piece.path}:{line}", f"{NOT_UTF8} (byte {error.start} of the file)")
        return
    if "\0" in text:
        refuse(str(piece.path), "holds NUL bytes: UTF-16 text, or no text at all")
    else:
        yield str(piece.path), text


def _whole(piece: FilePiece) -> bytes:
    """The content of a file. Raises InputError where a small file unpacks to a very large one."""
    parts, held = [], 0
    for block in unpacked_blocks(piece.path, piece.format.packing):
        parts.append(block)
        held += len(block)
        if held > max(LONGEST_LINE, LARGEST_RATIO * piece.size_bytes):
            raise InputError(
                f"{piece.path} unpacks from {piece.size_bytes:,} bytes to more than {held:,} of one text: hostile, or"
                " many texts that should be lines of JSON"
            )
    return b"".join(parts)


def _numbered_lines(blocks: Iterable[bytes], path: Path) -> Iterator[tuple[int, bytes | None]]:
    """(number, line) of a stream of blocks, split at line feeds only, as JSON lines are; None for one that is too long.

    Empty lines are left out, before they cost a step of Python or a byte: a small file may unpack to a billion.
    """
    unfinished: list[bytes] = []
    number, held = 1, 0
    for block in blocks:
        start = 0
        for breaks in LINE_BREAKS.finditer(block):
            held += breaks.start() - start
            if held > LONGEST_LINE:
                yield number, None
            elif held:
                unfinished.append(block[start : breaks.start()])
                yield number, b"".join(unfinished)
            number += len(breaks[0])
            start, held = breaks.end(), 0
            unfinished.clear()
        held += len(block) - start
        if held <= LONGEST_LINE:
            unfinished.append(block[start:])
        else:
            _refuse_no_text(block, path)
            unfinished.clear()
    if held:
        yield number, b"".join(unfinished) if held <= LONGEST_LINE else None


def _rows(
    piece: FilePiece, *, columns: Collection[str] | None, refuse: Refuse, required: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of the row groups of a piece; a row that does not hold what it should goes to `refuse`."""
    groups = range(piece.start, piece.stop)
    for number, row in rows_of_groups(piece.path, groups, columns=columns, required=required):
        where = f"{piece.path}: row {number}"
        if isinstance(row, str):
            refuse(where, row)
        else:
            yield where, row
