"""A record of a file, a line of JSON or a row of Parquet, as a document.

A record is a document if it has a text; its other fields become metadata, but for those that say what the document is:
id, source or url, history, and an object `metadata` whose fields are taken out of it. So what a writer wrote comes back
as it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.document_record import CONTENT_SHA256
from megaphi.curation.read.sources import SourcePortion, find_sources, local_copy
from megaphi.curation.step import Portion
from megaphi.data.storage.files.token_files import is_url
from megaphi.data.text.documents import FilePiece, kind_of, placed_records, plan_pieces
from megaphi.data.text.input_files import LeftOut, find_files, is_card
from megaphi.data.text.input_formats import ending_of
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
    """All local files of a reader's paths, in order; what is left out of a folder is said. Raises InputError."""
    paths, left_out = [path for path in paths if not is_url(path)], LeftOut()
    if not paths:
        return []
    files = identify(find_files(paths, texts=False, left_out=left_out), threads=len(os.sched_getaffinity(0)))
    for line in left_out.lines():
        logger.info("%s", line)
    return files


def remote_records(paths: Sequence[str], *, endings: Sequence[str]) -> list[SourcePortion]:
    """The objects of a reader's URLs, behind its local files, each a portion of its own.

    Raises:
        InputError: there is none, or one that is named by itself is of another kind.
    """
    found = [path for path in paths if is_url(path)]
    portions = find_sources(found, wanted=lambda name: _is_wanted(name, endings)) if found else []
    for portion in portions:
        if not _is_wanted(portion.source.rpartition("/")[2], endings):
            raise InputError(f"{portion.source}: this reader reads {', '.join(endings)}, by the ends of names")
    return portions


def _is_wanted(name: str, endings: Sequence[str]) -> bool:
    return ending_of(Path(name)) in endings and not name.startswith(".") and not is_card(Path(name))


def pieces_of(portion: Portion) -> Iterator[tuple[FilePiece, Callable[[str], str]]]:
    """The pieces of a portion, each with a function that puts the URL of an object for the copy that is read.

    An object is copied into a temporary file, which is there until the next piece is asked for.
    """
    if isinstance(portion, FilePortion):
        yield portion.piece, str
        return
    assert isinstance(portion, SourcePortion)
    with local_copy(portion) as copy:
        for piece in plan_pieces(copy, piece_bytes=max(1, portion.size_bytes)):
            yield piece, lambda text: text.replace(str(copy), portion.source)


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
