"""Documents as Parquet: a file for every shard, the columns of `WriteJsonLines`.

The metadata are one column of JSON text, because documents of one run need not have the same fields; `ReadParquet` and
`datasets` read the rest as it is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from megaphi.config import Range
from megaphi.curation.document import Document
from megaphi.curation.document_record import output_record
from megaphi.curation.write.shard_files import link_shard_files


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteParquet:
    """One row per document: id, text, source, metadata (JSON text), history, hashes."""

    VERSION: ClassVar[int] = 1

    rows_per_group: Annotated[int, Range(minimum=1)] = 1_000
    """Rows of a row group, in which the file is cut into portions when it is read."""
    level: Annotated[int, Range(minimum=1, maximum=19)] = 3
    """Level of zstandard."""

    def write(self, documents: Iterable[Document], folder: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        text = pyarrow.string()
        schema = pyarrow.schema(
            [
                ("id", text),
                ("text", pyarrow.large_string()),
                ("source", text),
                ("metadata", text),
                ("history", pyarrow.list_(text)),
                ("hashes", pyarrow.struct([("text", text), ("content", text)])),
            ]
        )
        rows = (_row(document) for document in documents)
        path = folder / "documents.parquet"
        options: dict[str, Any] = {"compression": "zstd", "compression_level": self.level}
        with pyarrow.parquet.ParquetWriter(path, schema, **options) as file:
            while group := list(itertools.islice(rows, self.rows_per_group)):
                file.write_table(pyarrow.Table.from_pylist(group, schema=schema))

    def join(self, folders: Sequence[Path], output: Path, lineage: Mapping[str, Any]) -> None:
        link_shard_files(folders, output)


def _row(document: Document) -> dict[str, Any]:
    record = output_record(document)
    whole = {name: _whole_text(value) if isinstance(value, str) else value for name, value in record.items()}
    return {
        **whole,
        "metadata": json.dumps(record["metadata"], ensure_ascii=not _is_whole(record["metadata"])),
        "history": [_whole_text(name) for name in record["history"]],
    }


def _whole_text(text: str) -> str:
    """The text without halves of surrogate pairs, which Parquet's UTF-8 cannot hold: a question mark for each."""
    return text.encode("utf-8", "replace").decode()


def _is_whole(value: Any) -> bool:
    text = json.dumps(value, ensure_ascii=False)
    return _whole_text(text) == text
