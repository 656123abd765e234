"""Text that is text already: decoded, with the line ends of Unix."""

from __future__ import annotations

from collections.abc import Mapping

from megaphi.curation.extract.decode import decoded
from megaphi.curation.extract.found import Extracted, NotExtracted


def extract_plain(content: bytes, *, media_type: str, files: Mapping[str, bytes]) -> Extracted:
    """The text. Raises NotExtracted where it holds NUL bytes: a binary file."""
    del files
    text, encoding = decoded(content, media_type=media_type)
    if "\0" in text:
        raise NotExtracted("nul_bytes")
    return Extracted(text.replace("\r\n", "\n").replace("\r", "\n"), {"encoding": encoding})
