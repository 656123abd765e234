"""Documents as JSON lines, compressed with zstandard or not: a file for every shard, in folders by a field if asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, ClassVar

from megaphi.config import Range
from megaphi.curation.document import Document
from megaphi.curation.document_record import json_line, output_record
from megaphi.curation.write.shard_files import link_shard_files, open_lines
from megaphi.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteJsonLines:
    """One record per document: id, text, source, metadata, history, hashes (SHA-256 of text and content)."""

    VERSION: ClassVar[int] = 1

    compress: bool = True
    """Write .jsonl.zst."""
    level: Annotated[int, Range(minimum=1, maximum=19)] = 3
    """Level of zstandard."""
    by: str = ""
    """Field of the metadata with few values: each is a folder of its own, as `split` after the step `HoldOut`."""

    def write(self, documents: Iterable[Document], folder: Path) -> None:
        with ExitStack() as stack:
            files = {} if self.by else {"": stack.enter_context(self._open(folder))}
            for document in documents:
                inside = self._folder_of(document) if self.by else ""
                if inside not in files:
                    (folder / inside).mkdir()
                    files[inside] = stack.enter_context(self._open(folder / inside))
                files[inside].write(json_line(output_record(document)))

    def _open(self, folder: Path) -> AbstractContextManager[IO[bytes]]:
        name = "documents.jsonl.zst" if self.compress else "documents.jsonl"
        return open_lines(folder / name, level=self.level if self.compress else None)

    def _folder_of(self, document: Document) -> str:
        value = document.metadata.get(self.by)
        if not isinstance(value, str) or not re.fullmatch(r"[\w-]+", value):
            raise InputError(f"write.by={self.by}: of {document.id} it is {value!r}, no name of a folder")
        return value

    def join(self, folders: Sequence[Path], output: Path, lineage: Mapping[str, Any]) -> None:
        link_shard_files(folders, output)
