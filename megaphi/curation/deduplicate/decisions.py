"""Decisions over documents: for each the document that is kept in its place, by number and by name.

A shard's gathered folder has a line for every document with its id. The decisions of a shard are two files: numbers of
the kept documents, and the ids of those that stand in another's place. Ids are compared when the documents come again,
so that decisions never meet documents in another order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from megaphi.curation.deduplicate.keys import Numbers, mapped
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.step import OfOne
from megaphi.errors import RunFailed
from megaphi.files import read_json, write_json
from megaphi.json_text import parse_json


class DocumentIds:
    """The ids of a shard's documents, written as they come: one behind the other, with their ends and checksums."""

    def __init__(self, folder: Path) -> None:
        self._files = ExitStack()
        self._names = self._files.enter_context(open(folder / "ids", "wb"))  # noqa: SIM115
        self._ends = self._files.enter_context(open(folder / "ids.ends", "wb"))  # noqa: SIM115
        self._checks = self._files.enter_context(open(folder / "ids.checks", "wb"))  # noqa: SIM115

    def add(self, document: Document) -> None:
        name = document.id.encode("utf-8", "surrogatepass")
        self._names.write(name)
        self._ends.write(np.int64(self._names.tell()).tobytes())
        self._checks.write(checksum(document.id))

    def __enter__(self) -> DocumentIds:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()


def checksum(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def count_of(folder: Path) -> int:
    """Number of documents of a gathered shard."""
    return (folder / "ids.ends").stat().st_size // 8


def first_numbers(folders: Sequence[Path]) -> list[int]:
    """The number of the first document of each shard among all, and the number of all."""
    return [0, *np.cumsum([count_of(folder) for folder in folders]).tolist()]


def write_decisions(folders: Sequence[Path], kept: Numbers, output: Path, *, earlier: int = 0) -> None:
    """Write the decisions for every shard of this run.

    Args:
        kept: for each document the number of the one that is kept in its place, or its own.
        earlier: number of the first `folders` that belong to earlier runs.
    """
    starts = first_numbers(folders)
    names = [mapped(folder / "ids", np.uint8) for folder in folders]
    ends = [mapped(folder / "ids.ends", np.int64) for folder in folders]

    def name_of(number: int) -> str:
        shard = int(np.searchsorted(starts, number, side="right")) - 1
        row = number - starts[shard]
        start = int(ends[shard][row - 1]) if row else 0
        return bytes(names[shard][start : int(ends[shard][row])]).decode("utf-8", "surrogatepass")

    for shard in range(earlier, len(folders)):
        own = np.array(kept[starts[shard] : starts[shard + 1]])
        is_kept = own == np.arange(starts[shard], starts[shard + 1])
        at = output / f"{shard - earlier:06d}"
        at.mkdir()
        np.packbits(is_kept).tofile(at / "is_kept")
        (at / "ids.checks").write_bytes((folders[shard] / "ids.checks").read_bytes())
        with open(at / "kept_ids.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(name_of(number)) + "\n" for number in own[~is_kept].tolist())


def decided_function(decisions: Path, shard: int, *, reason: str, detail: str) -> OfOne:
    """The function for the documents of a shard: those that are not kept are rejected, with the kept one's id."""
    at = decisions / f"{shard:06d}"
    is_kept = np.unpackbits(np.fromfile(at / "is_kept", np.uint8))
    next_check = in_order(at)
    kept_ids = _lines(at / "kept_ids.jsonl")

    def decide(document: Document) -> Outcome:
        row = next_check(document)
        if is_kept[row]:
            return document
        return Rejected(document, reason, f"{detail} {parse_json(next(kept_ids))}")

    return decide


def in_order(folder: Path) -> Callable[[Document], int]:
    """A function that gives each document's row, and ends the run if it is not the document that was gathered there."""
    checks = (folder / "ids.checks").read_bytes()
    row = -1

    def next_row(document: Document) -> int:
        nonlocal row
        row += 1
        if checks[8 * row : 8 * row + 8] != checksum(document.id):
            raise RunFailed(f"document {row} of a shard, {document.id}, is not the one that was gathered there")
        return row

    return next_row


def _lines(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8") as file:
        yield from file


def write_settings(folder: Path, settings: dict[str, object]) -> None:
    """Write the settings that a shard was gathered with; last, so that a folder that has them is whole."""
    write_json(folder / "gathered.json", settings)


def read_settings(folder: Path) -> object:
    return read_json(folder / "gathered.json", what="settings of gathered documents")
