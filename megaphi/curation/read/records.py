"""A record of a file, a line of JSON or a row of Parquet, as a document.

A record is a document if it has a text; its other fields become metadata, but for those that say what the document is:
id, source or url, history, and an object `metadata` whose fields are taken out of it. So what a writer wrote comes back
as it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.document_record import CONTENT_SHA256
from megaphi.curation.step import Portion
from megaphi.data.text.documents import FilePiece, kind_of, placed_records
from megaphi.data.text.input_files import LeftOut, find_files
from megaphi.data.text.input_identity import InputFile, identify
from megaphi.errors import InputError
from megaphi.log import logger

OWN_FIELDS = ("metadata", "history", "hashes", "place")
UNREADABLE = "unreadable: "
"""Beginning of the message about the rest of a damaged file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilePortion(Portion):
    """A piece of a file of records."""

    piece: FilePiece


def files_of_records(paths: Sequence[str]) -> list[InputFile]:
    """All files of a reader's paths, in order; what is left out of a folder is said. Raises InputError."""
    left_out = LeftOut()
    files = identify(find_files(paths, texts=False, left_out=left_out), threads=len(os.sched_getaffinity(0)))
    for line in left_out.lines():
        logger.info("%s", line)
    return files


def outcomes_of(
    piece: FilePiece, document: Callable[[Any, Any], Outcome], refusal: Callable[[Any, str], Rejected]
) -> Iterator[Outcome]:
    """The records of a piece, in order; of a damaged file those before the damage.

    Args:
        document: the outcome of (place, record).
        refusal: the same of (place, message) where there is none; `unreadable: ...` of the rest of a damaged file.
    """
    refused: list[Rejected] = []

    def refuse(where: object, reason: str) -> None:
        refused.append(refusal(where, reason))

    try:
        for where, record in placed_records(piece, refuse=refuse):
            yield from refused
            refused.clear()
            yield document(where, record)
    except InputError as error:  # corrupted or cut short: what came before is good
        refuse(str(piece.path), f"{UNREADABLE}{error}")
    yield from refused


def document_of_fields(
    record: Mapping[str, Any], *, place: str, path: str, text_key: str, id_key: str, source_keys: Sequence[str]
) -> Outcome:
    """The document in a record; `place` is its id if it has none, `path` its source."""
    named = record.get(id_key)
    identity = str(named) if isinstance(named, str | int) and named != "" else place
    source = next((record[key] for key in source_keys if isinstance(record.get(key), str)), path)
    found = Document(id=identity, source=source, place=place)
    text = record.get(text_key)
    if not isinstance(text, str):
        kind = kind_of(text) if text_key in record else "missing"
        return Rejected(found, "no_text", f"the field {text_key!r} is {kind}")
    known = {text_key, id_key, *OWN_FIELDS} | {key for key in source_keys if record.get(key) == source}
    metadata = {key: value for key, value in record.items() if key not in known}
    inner, history, hashes = (record.get(key) for key in OWN_FIELDS[:3])
    metadata |= inner if isinstance(inner, dict) else {} if inner is None else {"metadata": inner}
    if isinstance(hashes, dict) and isinstance(hashes.get("content"), str):
        metadata[CONTENT_SHA256] = hashes["content"]
    passed = tuple(each for each in history if isinstance(each, str)) if isinstance(history, list) else ()
    return Document(id=identity, source=source, place=place, text=text, metadata=metadata, history=passed)
