"""A document on its way through curation, and what becomes of one that a step takes out.

A reader makes a document with the bytes that it found; an extractor turns them into text; every other step reads or
replaces the text and adds what it found out to the metadata. Documents do not change: a step returns another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One page, file, record, exercise or conversation."""

    id: str
    """Stable and unique in a run: where it comes from, and of documents made from another, how many-th it is."""
    source: str
    """URL or file that it comes from."""
    place: str
    """Position in the user's files, for messages: FILE:line, FILE@byte, ARCHIVE!member."""
    text: str = ""
    """Empty until it is extracted."""
    content: bytes = b""
    """As it was found; empty where a record held text, and after extraction."""
    media_type: str = ""
    """The content's, as in `text/html; charset=utf-8`; empty where it is not known."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Other files that the content refers to by relative path: chapters and macros of a TeX source."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: of the record that it comes from (title, date, licence), and what steps found out (language)."""
    history: tuple[str, ...] = ()
    """Names of the steps that it went through, in order; the pipeline fills it."""

    def known(self, **found: Any) -> Document:
        """This document with more metadata."""
        return replace(self, metadata={**self.metadata, **found})

    def with_text(self, text: str, **found: Any) -> Document:
        """This document with another text, and without the content that the text came from."""
        return replace(self, text=text, content=b"", files={}, metadata={**self.metadata, **found})


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document that a step takes out, and why."""

    document: Document
    reason: str
    """One of few, to be counted: `too_short`, `language`, `not_utf8`. Lower-case words joined by underscores."""
    detail: str = ""
    """The numbers of this one: `38 words, fewer than 50`."""


Outcome = Document | Rejected
