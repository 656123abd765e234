"""Results of extractors: the text and what else was found, or the reason why there is none.

An extractor is a function from the bytes of one file (and those of the files it refers to) to `Extracted`. It raises
`NotExtracted` with one of few reasons, which the step `Extract` turns into the rejection of the document. Formulas
stand between dollar signs and code between fences, whatever the format; both are counted in the source and in the
text, so that a loss shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Extracted:
    """The text of a file, as Markdown."""

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: `title`, counts of formulas and code blocks, parts that were left out."""


class NotExtracted(Exception):
    """A file that has no usable text.

    `reason` is one of: `malformed`, `encrypted`, `not_utf8`, `nul_bytes`, `empty`, `too_large`, `too_deep`,
    `too_slow`, `out_of_memory`, `crashed`, `hostile_archive`, `no_main_file`, `no_text_layer`.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


class Extractor(Protocol):
    """A function that gives the text of a file.

    Args:
        content: the file's bytes.
        media_type: as the document has it, with parameters.
        files: other files that it may refer to, by relative path.

    Raises:
        NotExtracted: there is no usable text.
    """

    def __call__(self, content: bytes, *, media_type: str, files: Mapping[str, bytes]) -> Extracted: ...
