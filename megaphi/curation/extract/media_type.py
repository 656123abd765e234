"""The format of a file, from what its server or name said and from its first bytes.

Binary formats have marks that nothing else begins with, so the mark wins over the label (servers send PDF files as
`text/html`). Among text formats the label wins, because a page about LaTeX may begin with `\\documentclass`; only
where the label says nothing is the text itself looked at.
"""

from __future__ import annotations

import re

SNIFFED_BYTES = 4096
NOTHING_SAID = frozenset(
    {"", "application/octet-stream", "binary/octet-stream", "text/xml", "application/xml", "unknown"}
)
HTML, TEX, JATS, NOTEBOOK = "text/html", "application/x-tex", "application/jats+xml", "application/x-ipynb+json"
EPUB, PDF, GZIP, PLAIN = "application/epub+zip", "application/pdf", "application/gzip", "text/plain"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
BINARY = "application/octet-stream"

_BINARY_MARKS = (
    (re.compile(rb"\s{0,64}%PDF-"), PDF),
    (re.compile(rb"PK\x03\x04.{26}mimetypeapplication/epub\+zip", re.DOTALL), EPUB),
    (re.compile(rb"PK\x03\x04.*(?:word/|\[Content_Types\]\.xml)", re.DOTALL), DOCX),
    (re.compile(rb"\x1f\x8b"), GZIP),
)
_TEXT_MARKS = (
    (re.compile(rb"<article\b[^>]*(?:article-type|dtd-version|xmlns:mml)|<!DOCTYPE article\b|JATS"), JATS),
    (re.compile(rb"<!doctype html|<html[\s>]|<head[\s>]|<body[\s>]|<(?:div|p|table|h1)[\s>]", re.IGNORECASE), HTML),
    (re.compile(rb"\\(?:documentclass|documentstyle|begin\{document\})|\\input "), TEX),
    (re.compile(rb"\s*\{.*\"(?:nbformat|cell_type)\"", re.DOTALL), NOTEBOOK),
)


def media_type_of(content: bytes, said: str) -> str:
    """The media type without parameters.

    Args:
        content: the file.
        said: what its server or name said, with or without parameters; may be empty.
    """
    start = content[:SNIFFED_BYTES]
    for mark, media_type in _BINARY_MARKS:
        if mark.match(start):
            return media_type
    plain = said.partition(";")[0].strip().lower()
    if plain not in NOTHING_SAID:
        return plain
    for mark, media_type in _TEXT_MARKS:
        if mark.search(start) if media_type in (JATS, HTML, TEX) else mark.match(start):
            return media_type
    if b'"nbformat"' in content[-SNIFFED_BYTES:] and start.lstrip().startswith(b"{"):
        return NOTEBOOK
    return BINARY if b"\0" in start else PLAIN
