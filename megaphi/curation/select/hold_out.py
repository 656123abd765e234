"""Documents that are kept for validation, marked by a hash of their ids.

Documents with the same id are on the same side in every run and every source: a page, and what was written about it
under its id. Write them apart with `WriteJsonLines(by="split")`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

from megaphi.config import Range
from megaphi.curation.document import Document
from megaphi.curation.step import OfOne, StepContext


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldOut:
    """Mark a part of the documents as validation: metadata `split`, `train` or `validation`."""

    VERSION: ClassVar[int] = 1

    one_in: Annotated[int, Range(minimum=2)] = 1_000
    """Documents of which one is held out."""

    def open(self, context: StepContext) -> OfOne:
        del context
        return self.mark

    def mark(self, document: Document) -> Document:
        digest = hashlib.sha256(b"held out: " + document.id.encode("utf-8", "surrogatepass")).digest()
        is_held_out = int.from_bytes(digest[:8], "big") % self.one_in == 0
        return document.known(split="validation" if is_held_out else "train")
