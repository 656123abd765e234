"""A document as a JSON record and back: between the stages of a run whole, in output files without its content.

A text may hold lone surrogates (half of a pair, as in JSON that a broken program wrote): such a record is written in
escapes, all others as UTF-8.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from megaphi.curation.document import Document

CONTENT_SHA256 = "content_sha256"
"""Metadata key: the hash of the content that the document was made from, which the pipeline fills at reading."""


def whole_record(document: Document) -> dict[str, Any]:
    """All of a document, as `document_of` reads it; fields that are empty are left out."""
    record: dict[str, Any] = {"id": document.id, "source": document.source, "place": document.place}
    if document.text:
        record["text"] = document.text
    if document.content:
        record["content"] = base64.b64encode(document.content).decode()
    if document.media_type:
        record["media_type"] = document.media_type
    if document.files:
        record["files"] = {name: base64.b64encode(content).decode() for name, content in document.files.items()}
    if document.metadata:
        record["metadata"] = dict(document.metadata)
    if document.history:
        record["history"] = list(document.history)
    return record


def document_of(record: Mapping[str, Any]) -> Document:
    """The document that `whole_record` wrote."""
    return Document(
        id=record["id"],
        source=record["source"],
        place=record["place"],
        text=record.get("text", ""),
        content=base64.b64decode(record.get("content", "")),
        media_type=record.get("media_type", ""),
        files={name: base64.b64decode(content) for name, content in record.get("files", {}).items()},
        metadata=record.get("metadata", {}),
        history=tuple(record.get("history", ())),
    )


def output_record(document: Document) -> dict[str, Any]:
    """A finished document for those who train on it: id, text, source, metadata, history and hashes."""
    metadata = dict(document.metadata)
    content_sha256 = metadata.pop(CONTENT_SHA256, None)
    hashes = {"text": hashlib.sha256(document.text.encode("utf-8", "surrogatepass")).hexdigest()}
    if content_sha256 is not None:
        hashes["content"] = content_sha256
    return {
        "id": document.id,
        "text": document.text,
        "source": document.source,
        "metadata": metadata,
        "history": list(document.history),
        "hashes": hashes,
    }


def json_line(record: Mapping[str, Any]) -> bytes:
    """One line of a file. Raises TypeError or ValueError for metadata that are no JSON values."""
    try:
        return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record, separators=(",", ":")).encode() + b"\n"
