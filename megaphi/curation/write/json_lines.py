"""Documents as JSON lines, compressed with zstandard or not: a file for every shard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from megaphi.config import Range
from megaphi.curation.document import Document
from megaphi.curation.document_record import json_line, output_record
from megaphi.curation.write.shard_files import link_shard_files, open_lines


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteJsonLines:
    """One record per document: id, text, source, metadata, history, hashes (SHA-256 of text and content)."""

    VERSION: ClassVar[int] = 1

    compress: bool = True
    """Write .jsonl.zst."""
    level: Annotated[int, Range(minimum=1, maximum=19)] = 3
    """Level of zstandard."""

    def write(self, documents: Iterable[Document], folder: Path) -> None:
        path = folder / ("documents.jsonl.zst" if self.compress else "documents.jsonl")
        with open_lines(path, level=self.level if self.compress else None) as file:
            for document in documents:
                file.write(json_line(output_record(document)))

    def join(self, folders: Sequence[Path], output: Path, lineage: Mapping[str, Any]) -> None:
        link_shard_files(folders, output)
