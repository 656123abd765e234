"""Files of results, benchmarks/results/*.csv: rows are only ever appended, so that the history of a figure stays."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def append_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object] | Sequence[object]]) -> None:
    """Append rows; a new file begins with the names of its columns.

    Args:
        rows: the values of all columns in their order, or those of some columns by name.

    Raises:
        ValueError: a row has other columns.
    """
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if is_new:
            writer.writeheader()
        for row in rows:
            writer.writerow(row if isinstance(row, Mapping) else dict(zip(columns, row, strict=True)))
