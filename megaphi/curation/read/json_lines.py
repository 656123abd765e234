"""Documents from files of JSON: one record per line or one list, plain or compressed (gzip, bzip2, xz, zstandard).

Large plain files are cut at lines and read in portions. A record is a document if it has a text; its other fields
become metadata, but for those that say what the document is: id, source or url, history, and an object `metadata`
whose fields are taken out of it. So what `WriteJsonLines` wrote comes back as it was. A record that is none is
rejected with its reason, and so is the rest of a file that turns out to be damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from megaphi.data.text.documents import TOO_LONG, FilePiece, LineAt, plan_pieces
from megaphi.data.text.input_formats import RECORD_ENDINGS, content_of_name, ending_of
from megaphi.errors import InputError
from megaphi.json_text import NOT_UTF8


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadJsonLines:
    """Documents from .jsonl, .ndjson and .json files."""

    VERSION: ClassVar[int] = 1
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"paths"})

    paths: tuple[FilePath, ...]
    """Files, folders, patterns or URLs."""
    text_key: str = "text"
    """Field that holds the text."""
    id_key: str = "id"
    """Field that holds the id; a record without one is called by its file and place."""
    source_keys: tuple[str, ...] = ("source", "url")
    """Fields that may hold the URL or file that the text comes from, the first one that a record has counts."""
    piece_bytes: Annotated[int, Range(minimum=1)] = 16 << 20
    """Size of the portions that plain files are cut into."""

    def portions(self) -> Sequence[Portion]:
        """Pieces of all files, in order. Raises InputError for an input that is missing or of another kind."""
        found: list[Portion] = []
        for file in files_of_records(self.paths):
            if content_of_name(file.path) == "records" and ending_of(file.path) not in RECORD_ENDINGS:
                raise InputError(f"{file.path} is no file of JSON: read it with the reader of its own format")
            for piece in plan_pieces(file.path, piece_bytes=self.piece_bytes):
                span = "" if piece.size_bytes == file.size_bytes else f" bytes {piece.start:,} to {piece.stop:,}"
                found.append(
                    FilePortion(
                        name=f"{file.path}{span}",
                        size_bytes=piece.size_bytes,
                        fingerprint=f"{file.fingerprint} {piece.start} {piece.stop}",
                        source=str(file.path),
                        piece=piece,
                    )
                )
        return [*found, *remote_records(self.paths, endings=RECORD_ENDINGS)]

    def read(self, portion: Portion) -> Iterator[Outcome]:
        """The records of a piece, in order."""
        for piece, named in pieces_of(portion):
            yield from self._read(piece, named)

    def _read(self, piece: FilePiece, named: Callable[[str], str]) -> Iterator[Outcome]:
        path = named(str(piece.path))

        def document(where: object, record: dict[str, Any]) -> Outcome:
            return document_of_fields(
                record,
                place=named(_place(where)),
                path=path,
                text_key=self.text_key,
                id_key=self.id_key,
                source_keys=self.source_keys,
            )

        def refusal(where: object, reason: str) -> Rejected:
            place = named(_place(where))
            return Rejected(Document(id=place, source=path, place=place), *_named(named(reason)))

        return outcomes_of(piece, document, refusal)


def _place(where: object) -> str:
    """FILE@byte, which costs nothing; FILE:line would be a pass over the file for each record."""
    return f"{where.path}@{where.byte}" if isinstance(where, LineAt) else str(where)


def _named(reason: str) -> tuple[str, str]:
    """(reason to be counted, detail) of what the reader of text files says."""
    if reason.startswith(UNREADABLE):
        return "unreadable_file", reason.removeprefix(UNREADABLE)
    if reason.startswith(TOO_LONG):
        return "too_long_line", reason
    if NOT_UTF8 in reason:
        return "not_utf8", reason
    return ("not_an_object" if reason.startswith("expected a JSON object") else "not_json"), reason
