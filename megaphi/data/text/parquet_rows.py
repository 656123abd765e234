"""Rows of Parquet files, a batch at a time, in bounded memory, whatever a file says of itself.

A dictionary page may hold one value of megabytes, and a few bytes behind it say that a million rows have it: a file of
600 bytes would be gigabytes. Arrow has no limit for that, so the size of the dictionaries, which their page headers
tell and Arrow checks, decides how many rows are unpacked at once. Writers start no dictionary above one megabyte: their
files are read in whole batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from megaphi.errors import InputError
from megaphi.files import explain_read_errors
from megaphi.json_text import NOT_UTF8

BATCH_ROWS = 1_024
LARGEST_BATCH = 1 << 30
"""Bytes of a column in a batch, where its dictionary makes them of few."""
LARGEST_RATIO = 10_000
"""Bytes of a column for one stored, as the file says, beyond `FREE_BYTES`."""
FREE_BYTES = 64 << 20
PAGE_HEADER = 32
"""Bytes that hold the sizes in the header of a page."""
INTEGER_FIELD = 0x15
"""In Thrift's compact protocol: the next field, of 32 bits."""


def open_parquet(path: Path) -> Any:
    """The open file. Raises InputError where it is not whole."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        _ = file.schema_arrow.names  # which may be no UTF-8
        return file
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} is not a complete parquet file: {error}") from None


def rows_of_groups(
    path: Path, groups: range, *, columns: Collection[str] | None, required: str | None
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(number from 1, row or why it has no Python form) of some row groups.

    Args:
        columns: those to read; of the others a row has the names, with `...` for a value.
        required: a column that has to be there.

    Raises:
        InputError: the file is corrupted, or has no such column.
    """
    file = open_parquet(path)
    names: list[str] = file.schema_arrow.names
    if required is not None and required not in names:
        raise InputError(f"{path}: no column {required!r}; it has {', '.join(names)} (--text-key chooses)")
    wanted = [name for name in names if columns is None or name in columns] or names
    others = dict.fromkeys((name for name in names if name not in wanted), ...)
    row = sum(file.metadata.row_group(group).num_rows for group in range(groups.start))
    for group in groups:
        for batch in _batches(file, path, group, wanted):
            for found in _python_rows(batch):
                row += 1
                yield row, found if isinstance(found, str) else {**found, **others}


def _batches(file: Any, path: Path, group: int, wanted: list[str]) -> Iterator[Any]:
    """The rows of a group in batches of Arrow. Raises InputError where it is corrupted."""
    import pyarrow

    done = 0
    try:
        next(file.iter_batches(1, row_groups=[group], columns=wanted), None)  # see `_batch_rows`
        rows = _batch_rows(file, path, group, wanted)
        for batch in file.iter_batches(rows, row_groups=[group], columns=wanted):
            yield batch
            done += batch.num_rows
    except (pyarrow.ArrowException, OSError, MemoryError, ValueError) as error:
        raise InputError(f"{path} is corrupted after row {done} of row group {group}: {error}") from None


def _batch_rows(file: Any, path: Path, group: int, wanted: list[str]) -> int:
    """Rows of a group that are unpacked at once. Raises InputError for sizes that no writer makes.

    The metadata of a damaged column end the process (pyarrow lets the exception of C++ through) unless Arrow has read
    from that column before, which raises the same as an error: so this is called behind the first row.
    """
    schema, metadata = file.schema, file.metadata.row_group(group)
    numbers = [number for number in range(len(schema)) if schema.column(number).path.split(".")[0] in wanted]
    chunks = [metadata.column(number) for number in numbers]
    largest = 1
    with explain_read_errors(path), open(path, "rb") as bytes_of_file:
        for chunk in chunks:
            packed, size = chunk.total_compressed_size, chunk.total_uncompressed_size
            if size > FREE_BYTES + LARGEST_RATIO * max(0, packed):
                raise InputError(f"{path} is corrupted or hostile: {packed:,} bytes of a column are to become {size:,}")
            if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
                largest = max(largest, _page_size(bytes_of_file, chunk.dictionary_page_offset))
            if "DELTA_BYTE_ARRAY" in chunk.encodings:  # a value may repeat the one before it
                largest = max(largest, size)
    return max(1, min(BATCH_ROWS, LARGEST_BATCH // largest))


def _page_size(file: IO[bytes], offset: int) -> int:
    """Unpacked size of the page whose header begins at a byte; 0 where it is damaged, which Arrow will say."""
    file.seek(max(0, offset))
    header = file.read(PAGE_HEADER)
    place, sizes = 0, []
    while len(sizes) < 2 and header[place : place + 1] == bytes([INTEGER_FIELD]):
        place, number = _variable_length(header, place + 1)
        sizes.append((number >> 1) ^ -(number & 1))
    return sizes[1] if len(sizes) == 2 else 0


def _variable_length(content: bytes, place: int) -> tuple[int, int]:
    """(place behind it, number) of a number in groups of seven bits, the lowest first."""
    number = 0
    for count, byte in enumerate(content[place : place + 5]):
        number |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return place + count + 1, number
    return len(content), number


def _python_rows(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Every row of a batch, or why it has no Python form: text that is not UTF-8, dates that Python cannot hold."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):
        rows = None
    if rows is not None:
        yield from rows
        return
    for number in range(batch.num_rows):
        try:
            yield batch.slice(number, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield NOT_UTF8
        except (ValueError, OverflowError) as error:
            yield str(error)
