"""A sample of the documents: in the order of a hash of their ids until a budget of characters is used up.

Nothing but the id decides, so a document that is in a sample is in every larger one, and the choice depends neither on
shards nor on what a seed drew before. A document that has not been extracted counts with the bytes of its content.

Legend: N documents of a shard, or keys in a range.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np

from megaphi.config import Range
from megaphi.curation.deduplicate.keys import KeyFile, open_keys, ranges, write_keys
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.step import OfOne
from megaphi.files import read_object, write_json

EVERY = 1 << 64
"""Place behind all documents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleByHash:
    """Keep documents up to a number of characters, chosen by a hash of their ids."""

    VERSION: ClassVar[int] = 1
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"memory_megabytes"})

    characters: Annotated[int, Range(minimum=1)]
    """Budget; the sample has less, by a document at most."""
    by: str = ""
    """Field of the metadata: each of its values has the budget to itself, as in `repository`. Empty: one budget."""
    memory_megabytes: Annotated[int, Range(minimum=1)] = 1024
    """Memory for sorting keys."""

    def gather(self, documents: Iterable[Document], shard: int, folder: Path) -> None:
        places: dict[str, list[int]] = {}
        sizes: dict[str, list[int]] = {}
        for document in documents:
            group = self._group(document)
            places.setdefault(group, []).append(place_of(document))
            sizes.setdefault(group, []).append(len(document.text) or len(document.content))
        for number, group in enumerate(places):
            write_keys(folder, str(number), np.array(places[group], np.uint64), np.array(sizes[group]))
        write_json(folder / "groups.json", {group: str(number) for number, group in enumerate(places)})

    def decide(self, folders: Sequence[Path], output: Path) -> None:
        files: dict[str, list[KeyFile]] = {}
        for folder in folders:
            for group, name in read_object(folder / "groups.json", what="groups of documents").items():
                files.setdefault(group, []).extend(open_keys([folder], name, [0]))
        ends = {group: self._end(found) for group, found in files.items()}
        write_json(output / "ends.json", ends)

    def open_decided(self, decisions: Path, shard: int) -> OfOne:
        del shard
        ends = read_object(decisions / "ends.json", what="ends of samples")

        def choose(document: Document) -> Outcome:
            group = self._group(document)
            if place_of(document) < ends[group]:
                return document
            return Rejected(document, "not_in_sample", f"of {group or 'all documents'}, by the hash of its id")

        return choose

    def _group(self, document: Document) -> str:
        return str(document.metadata.get(self.by, "")) if self.by else ""

    def _end(self, files: Sequence[KeyFile]) -> int:
        """The place of the first document of a group that does not fit. `KeyFile` has sizes where others have rows."""
        used = 0
        for low, high in ranges(files, memory_bytes=self.memory_megabytes << 20):
            found = [file.between(low, high) for file in files]
            place_N, size_N = (np.concatenate(parts) for parts in zip(*found, strict=True))
            order_N = np.argsort(place_N, kind="stable")
            used_N = used + np.cumsum(size_N[order_N])
            fitting = int(np.searchsorted(used_N, self.characters, side="right"))
            if fitting < len(used_N):
                return int(place_N[order_N[fitting]])
            used = int(used_N[-1]) if len(used_N) else used
        return EVERY


def place_of(document: Document) -> int:
    """The document's place in the order that samples are taken in: 64 bits of a hash of its id."""
    return int.from_bytes(hashlib.sha256(document.id.encode("utf-8", "surrogatepass")).digest()[:8], "big")
