"""Rows of Parquet files, a batch at a time, in bounded memory, whatever a file says of itself.

Eight hundred bytes may hold a list of 200 million numbers, a page of gigabytes, or say that a million rows have one
long value; each encoding has its own way to say so, and what the metadata tell of sizes may be a lie. Arrow has no
limit for that. So the kernel keeps one while a batch is unpacked, which Arrow and Python report as any lack of memory.
What does not fit is read row by row, and a row that does not fit is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from megaphi.data.text.memory_limit import growing_by_at_most
from megaphi.errors import InputError
from megaphi.json_text import NOT_UTF8

BATCH_ROWS, BATCH_BYTES = 1_024, 256 << 20
"""Rows that are unpacked at once, fewer where the file says that they are long."""
MOST_MEMORY = 1 << 30
"""Bytes by which the process may grow while a batch becomes rows; up to another GiB is what Arrow's pool has spare."""

Row = dict[str, Any] | str
"""Values by column, or why there is no Python form of them."""


def open_parquet(path: Path) -> Any:
    """The open file. Raises InputError where it is not whole."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.allocate_buffer(1)  # its pool takes addresses for a GiB at first, which is no memory
    try:
        with growing_by_at_most(MOST_MEMORY):
            file = pyarrow.parquet.ParquetFile(path)
            _ = file.schema_arrow.names  # which may be no UTF-8
        return file
    except (pyarrow.ArrowException, OSError, MemoryError, ValueError) as error:
        raise InputError(f"{path} is not a complete parquet file: {error}") from None


def rows_of_groups(
    path: Path, groups: range, *, columns: Collection[str] | None, required: str | None
) -> Iterator[tuple[int, Row]]:
    """(number from 1, row) of some row groups.

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
        for found in _rows_of_group(file, path, group, wanted):
            row += 1
            yield row, found if isinstance(found, str) else {**found, **others}


def _rows_of_group(file: Any, path: Path, group: int, wanted: list[str]) -> Iterator[Row]:
    """The rows of a group. Raises InputError where it is corrupted, or a row is too large."""
    import pyarrow

    done = 0
    try:
        for rows_at_once in dict.fromkeys((_rows_at_once(file.metadata.row_group(group)), 1)):
            try:
                for rows in _batches(file, group, wanted, rows_at_once, skip=done):
                    yield from rows
                    done += len(rows)
                return
            except MemoryError:
                continue
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} is corrupted after row {done} of row group {group}: {error}") from None
    raise InputError(
        f"{path} is corrupted or hostile: the row after row {done} of row group {group} takes more than "
        f"{MOST_MEMORY >> 20:,} MiB of memory"
    )


def _batches(file: Any, group: int, wanted: list[str], size: int, *, skip: int) -> Iterator[list[Row]]:
    """The rows behind the first `skip`, `size` at a time, a divisor of `skip`."""
    batches = file.iter_batches(size, row_groups=[group], columns=wanted)
    for _ in range(skip // size):
        _next_rows(batches)
    while (rows := _next_rows(batches)) is not None:
        yield rows


def _next_rows(batches: Iterator[Any]) -> list[Row] | None:
    """The rows of the next batch. Raises MemoryError if they are too large."""
    with growing_by_at_most(MOST_MEMORY):
        batch = next(batches, None)
        return None if batch is None else _python_rows(batch)


def _rows_at_once(group: Any) -> int:
    """Rows of a group that have `BATCH_BYTES` together, as its metadata say."""
    row_bytes = max(1, group.total_byte_size // max(1, group.num_rows))
    return max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes, group.num_rows))


def _python_rows(batch: Any) -> list[Row]:
    """Every row of a batch, or why it has no Python form: text that is not UTF-8, dates that Python cannot hold."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError):
        return [_python_row(batch.slice(number, 1)) for number in range(batch.num_rows)]


def _python_row(batch: Any) -> Row:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError:
        return NOT_UTF8
    except (ValueError, OverflowError) as error:
        return str(error)
