"""Documents from Parquet files: a row is a document if the column of its text holds one.

Large files are read in portions of row groups. Columns of numbers, lists and objects become metadata as they are; dates
become text as ISO 8601 writes them, bytes are left out. Or a column holds files (pages as they were fetched), which
become the documents' content.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from megaphi.config import FilePath, Range
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.read.records import (
    UNREADABLE,
    FilePortion,
    document_of_fields,
    files_of_records,
    outcomes_of,
    pieces_of,
    remote_records,
)
from megaphi.curation.step import Portion
from megaphi.data.text.documents import FilePiece, plan_pieces
from megaphi.data.text.input_formats import PARQUET, format_of
from megaphi.errors import InputError
from megaphi.json_text import parse_json


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadParquet:
    """Documents from .parquet files."""

    VERSION: ClassVar[int] = 1
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"paths"})

    paths: tuple[FilePath, ...]
    """Files, folders, patterns or URLs."""
    text_key: str = "text"
    """Column that holds the text."""
    content_key: str = ""
    """Column that holds files instead, as bytes or text (HTML as it was fetched); empty means none."""
    media_type: str = ""
    """Media type of these files, as in `text/html`; empty where their first bytes say it."""
    id_key: str = "id"
    """Column that holds the id; a row without one is called by its file and number."""
    source_keys: tuple[str, ...] = ("source", "url")
    """Columns that may hold the URL or file that the text comes from; the first that a row has counts."""
    piece_bytes: Annotated[int, Range(minimum=1)] = 64 << 20
    """Size of the portions, as far as row groups allow."""

    def portions(self) -> Sequence[Portion]:
        """Row groups of all files, in order. Raises InputError for an input that is missing or no Parquet file."""
        found: list[Portion] = []
        for file in files_of_records(self.paths):
            form = format_of(file.path)
            if form is None or form.kind != "parquet":
                raise InputError(f"{file.path} is no Parquet file: read it with the reader of its own format")
            for piece in plan_pieces(file.path, piece_bytes=self.piece_bytes):
                found.append(
                    FilePortion(
                        name=f"{file.path} row groups {piece.start} to {piece.stop}",
                        size_bytes=piece.size_bytes,
                        fingerprint=f"{file.fingerprint} {piece.start} {piece.stop}",
                        piece=piece,
                        source=str(file.path),
                    )
                )
        return [*found, *remote_records(self.paths, endings=(PARQUET,))]

    def read(self, portion: Portion) -> Iterator[Outcome]:
        """The rows of a portion, in order; of a damaged file those before the damage."""
        for piece, named in pieces_of(portion):
            yield from self._read(piece, named)

    def _read(self, piece: FilePiece, named: Callable[[str], str]) -> Iterator[Outcome]:
        path = named(str(piece.path))

        def document(where: object, row: dict[str, Any]) -> Outcome:
            return self._document(row, named(str(where)), path)

        def refusal(where: object, reason: str) -> Rejected:
            place = named(str(where))
            return Rejected(Document(id=place, source=path, place=place), *_named(named(reason)))

        return outcomes_of(piece, document, refusal)

    def _document(self, row: dict[str, Any], place: str, path: str) -> Outcome:
        content = row.pop(self.content_key, None) if self.content_key else None
        fields = {name: plain for name, value in row.items() if (plain := _json_value(value)) is not None}
        inner = fields.get("metadata")
        if isinstance(inner, str) and inner.startswith("{"):  # as `WriteParquet` writes them
            with suppress(InputError):
                fields["metadata"] = parse_json(inner)
        if self.content_key:
            fields[self.text_key] = ""
        found = document_of_fields(
            fields,
            place=place,
            path=path,
            text_key=self.text_key,
            id_key=self.id_key,
            source_keys=self.source_keys,
        )
        if not self.content_key or not isinstance(found, Document):
            return found
        content = content.encode("utf-8", "replace") if isinstance(content, str) else content
        if not isinstance(content, bytes):
            return Rejected(found, "no_content", f"the column {self.content_key!r} holds none")
        return replace(found, content=content, media_type=self.media_type)


def _named(reason: str) -> tuple[str, str]:
    """(reason to be counted, detail) of what the reader of Parquet files says."""
    if reason.startswith(UNREADABLE):
        return "unreadable_file", reason.removeprefix(UNREADABLE)[:200]
    return "not_utf8" if "UTF-8" in reason else "unreadable_row", reason[:200]


def _json_value(value: Any) -> Any:
    """A value of a column as JSON has it; None for what it has not."""
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        return None
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, list | tuple):
        return [_json_value(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _json_value(each) for key, each in value.items()}
    return value
