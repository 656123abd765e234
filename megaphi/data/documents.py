"""Read the texts of documents from files, one at a time: JSON lines (plain, gzip, zstandard), parquet, plain text.

`find_files` turns what a user names (files, folders, patterns) into an ordered list of files; `plan_pieces` cuts large
files where they can be entered in the middle (JSON lines at byte offsets, parquet at row groups); `read_piece` streams
the texts of one piece. A record belongs to the piece in which its line begins, so pieces of any size give the same
documents in the same order. `read_records` gives whole records instead of texts, each with its place. Whatever is wrong
with a record is an `InputError` that names its file and line.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from megaphi.errors import InputError
from megaphi.json_text import NOT_UTF8, parse_json

Format = Literal["jsonl", "jsonl.gz", "jsonl.zst", "parquet", "text"]

FORMAT_OF_ENDING: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl.gz",
    ".jsonl.zst": "jsonl.zst",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
}
"""A plain text file is one document; the others hold one document per record."""
RECORD_ENDINGS = tuple(ending for ending, kind in FORMAT_OF_ENDING.items() if kind != "text")

NEW_LINE = b"\n"
READ_BYTES = 1 << 20
PARQUET_BATCH_ROWS = 1_024


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file: bytes [start, stop) of JSON lines, row groups [start, stop) of parquet, else all of it."""

    path: Path
    start: int
    stop: int
    size_bytes: int
    """Share of the file's bytes, for progress and for grouping pieces."""


def format_of(path: Path) -> Format | None:
    """The format that a file's name stands for; None for any other file."""
    name = path.name.lower()
    return next((kind for ending, kind in FORMAT_OF_ENDING.items() if name.endswith(ending)), None)


def find_files(
    inputs: Sequence[str | os.PathLike[str]], *, endings: Sequence[str] = tuple(FORMAT_OF_ENDING)
) -> list[Path]:
    """The files that `inputs` name, each once: a folder stands for all files in it with a known ending, sorted.

    Args:
        endings: of the files that can be used.

    Raises:
        InputError: an input does not exist, matches nothing, or is a file of an unknown format.
    """
    found: dict[Path, Path] = {}
    for given in inputs:
        for path in _files_of(Path(given), endings):
            found.setdefault(path.resolve(), path)
    if not found:
        raise InputError("no input files: name at least one file, folder or pattern")
    return list(found.values())


def _files_of(given: Path, endings: Sequence[str]) -> list[Path]:
    known = ", ".join(endings)
    if given.is_dir():
        files = sorted(
            path for path in given.rglob("*") if path.is_file() and path.name.lower().endswith(tuple(endings))
        )
        if not files:
            raise InputError(f"no documents in the folder {given}: looked for files ending in {known}")
        return files
    if given.exists():
        if not given.name.lower().endswith(tuple(endings)):
            raise InputError(f"do not know how to read {given}: its name should end in one of {known}")
        return [given]
    matches = sorted(glob.glob(str(given), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    files = [path for path in map(Path, matches) if path.is_file()]
    if not files:
        raise InputError(f"input not found: {given} is neither a file, a folder nor a pattern that matches one")
    return [path for file in files for path in _files_of(file, endings)]


def plan_pieces(path: Path, *, piece_bytes: int) -> list[Piece]:
    """Cut a file into pieces of about `piece_bytes`, where its format allows it."""
    size = path.stat().st_size
    if format_of(path) == "jsonl":
        starts = range(0, size, piece_bytes)
        return [Piece(path, start, min(start + piece_bytes, size), min(piece_bytes, size - start)) for start in starts]
    if format_of(path) == "parquet":
        return _plan_row_groups(path, piece_bytes=piece_bytes)
    return [Piece(path, 0, size, size)]


def _plan_row_groups(path: Path, *, piece_bytes: int) -> list[Piece]:
    size = path.stat().st_size
    groups = _open_parquet(path).num_row_groups
    pieces = max(1, min(groups, size // piece_bytes))
    bounds = [groups * index // pieces for index in range(pieces + 1)]
    return [Piece(path, start, stop, size // pieces) for start, stop in pairwise(bounds)]


def read_documents(path: str | os.PathLike[str], *, text_key: str = "text") -> Iterator[str]:
    """All texts of one file, in order."""
    for piece in plan_pieces(Path(path), piece_bytes=1 << 62):
        yield from read_piece(piece, text_key=text_key)


def read_records(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of every JSON object or parquet row of a whole file; the place is what an error should name.

    Raises:
        InputError: the file cannot be read or unpacked, or a line is no JSON object (file and line named).
    """
    path = Path(path)
    if format_of(path) == "parquet":
        yield from _read_rows(path)
        return
    blocks = {"jsonl.gz": _gzip_blocks, "jsonl.zst": _zstandard_blocks}.get(format_of(path) or "", _plain_blocks)
    for number, line in enumerate(_lines(blocks(path)), start=1):
        where = partial("{}:{}".format, path, number)
        for record in _values_of_line(line, where=where):
            if not isinstance(record, dict):
                raise InputError(f"{where()}: expected a JSON object, found {kind_of(record)}")
            yield where(), record


def read_piece(piece: Piece, *, text_key: str = "text") -> Iterator[str]:
    """Texts of one piece, in order; the empty ones too.

    Args:
        text_key: the field of a JSON record, or the column of a parquet file, that holds the text.

    Raises:
        InputError: the file cannot be read or unpacked, or a record is not what it should be (file and line named).
    """
    kind = format_of(piece.path)
    if kind == "text":
        yield _read_text(piece.path)
    elif kind == "parquet":
        yield from _read_parquet(piece, text_key=text_key)
    elif kind == "jsonl":
        yield from _read_lines_between(piece, text_key=text_key)
    else:
        blocks = _gzip_blocks(piece.path) if kind == "jsonl.gz" else _zstandard_blocks(piece.path)
        for number, line in enumerate(_lines(blocks), start=1):
            yield from _texts_of_line(line, text_key=text_key, where=partial("{}:{}".format, piece.path, number))


def _read_lines_between(piece: Piece, *, text_key: str) -> Iterator[str]:
    """Texts of the lines that begin within the piece."""
    with open(piece.path, "rb") as file:
        if piece.start > 0:
            file.seek(piece.start - 1)
            file.readline()  # the rest of a line that began earlier (or just the line break before the piece)
        while (start := file.tell()) < piece.stop and (line := file.readline()):
            yield from _texts_of_line(line, text_key=text_key, where=partial(_place_of_byte, piece.path, start))


def _place_of_byte(path: Path, position: int) -> str:
    """file:line of the line that begins at byte `position`; counts lines from the beginning, so for errors only."""
    with open(path, "rb") as file:
        blocks = (file.read(min(READ_BYTES, position - start)) for start in range(0, position, READ_BYTES))
        return f"{path}:{1 + sum(block.count(NEW_LINE) for block in blocks)}"


def _values_of_line(line: bytes, *, where: Callable[[], str]) -> Iterator[Any]:
    """The JSON value of a line; nothing for a blank one."""
    try:
        if line and not line.isspace() and line != codecs.BOM_UTF8:
            yield parse_json(line)
    except InputError as error:
        raise InputError(f"{where()}: not a JSON record: {error}") from None


def _texts_of_line(line: bytes, *, text_key: str, where: Callable[[], str]) -> Iterator[str]:
    for record in _values_of_line(line, where=where):
        if not isinstance(record, dict):
            raise InputError(f"{where()}: expected a JSON object with a {text_key!r} field, found {kind_of(record)}")
        if text_key not in record:
            keys = ", ".join(map(repr, record)) or "none"
            raise InputError(f"{where()}: no {text_key!r} field; its fields are {keys} (--text-key chooses another)")
        yield _text_or_error(record[text_key], text_key=text_key, where=where)


def _text_or_error(value: Any, *, text_key: str, where: Callable[[], str]) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where()}: {text_key!r} is {kind_of(value)}, not text")
    return value


def kind_of(value: Any) -> str:
    """A JSON value's type in JSON's words."""
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", str: "text"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(NEW_LINE, 0, error.start) + 1
        raise InputError(f"{path}:{line}: {NOT_UTF8} (byte {error.start} of the file)") from None


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines of a stream of blocks, split at line feeds only, as JSON lines are."""
    unfinished: list[bytes] = []
    for block in blocks:
        first, *rest = block.split(NEW_LINE)
        unfinished.append(first)
        if rest:
            yield b"".join(unfinished)
            yield from rest[:-1]
            unfinished = [rest[-1]]
    yield b"".join(unfinished)


def _plain_blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(READ_BYTES):
            yield block


def _gzip_blocks(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") as file:
            while block := file.read(READ_BYTES):
                yield block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged or truncated: {error}") from None


def _zstandard_blocks(path: Path) -> Iterator[bytes]:
    """Unpacked blocks of all frames; the library's own stream reader takes a truncated file for a complete one."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor()
    frame = decompressor.decompressobj()
    complete = True
    with open(path, "rb") as file:
        while packed := file.read(READ_BYTES):
            while packed:
                try:
                    yield frame.decompress(packed)
                except zstandard.ZstdError as error:
                    raise InputError(f"{path} is damaged: {error}") from None
                complete, packed = frame.eof, frame.unused_data
                if complete:
                    frame = decompressor.decompressobj()
    if not complete:
        raise InputError(f"{path} is truncated: its last zstandard frame does not end")


def _open_parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is not a complete parquet file: {error}") from None


def _read_parquet(piece: Piece, *, text_key: str) -> Iterator[str]:
    file = _open_parquet(piece.path)
    columns = file.schema_arrow.names
    if text_key not in columns:
        raise InputError(f"{piece.path}: no column {text_key!r}; it has {', '.join(columns)} (--text-key chooses)")
    row = sum(file.metadata.row_group(group).num_rows for group in range(piece.start))
    groups = list(range(piece.start, piece.stop))
    for batch in file.iter_batches(PARQUET_BATCH_ROWS, row_groups=groups, columns=[text_key]):
        for value in batch.column(0).to_pylist():
            row += 1
            yield _text_or_error(value, text_key=text_key, where=partial("{}: row {}".format, piece.path, row))


def _read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    row = 0
    for batch in _open_parquet(path).iter_batches(PARQUET_BATCH_ROWS):
        for record in batch.to_pylist():
            row += 1
            yield f"{path}: row {row}", record
