"""Documents through a joint step as the pipeline takes them: gathered by shards, decided once, opened by shards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from megaphi.curation.document import Document, Outcome
from megaphi.curation.step import JointStep


def documents(texts: Iterable[str], **metadata: Sequence[Any]) -> list[Document]:
    """Documents d0, d1, .. with these texts, and with one value of each list of the metadata."""
    return [
        Document(
            id=f"d{number}",
            source="s",
            place=f"s:{number}",
            text=text,
            metadata={key: values[number] for key, values in metadata.items() if values[number] is not None},
        )
        for number, text in enumerate(texts)
    ]


def outcomes(
    step: JointStep, given: Sequence[Document], *, shards: int = 1, gathered: Path | None = None
) -> list[Outcome]:
    """The outcome of each document; shard k has the k-th part of them."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) if gathered is None else gathered
        edges = [len(given) * number // shards for number in range(shards + 1)]
        parts = [given[start:stop] for start, stop in pairwise(edges)]
        folders = [root / f"gathered-{number}" for number in range(shards)]
        order = list(range(shards))[::-1]  # shards are gathered in any order
        for number in order:
            folders[number].mkdir()
            step.gather(iter(parts[number]), number, folders[number])
        (root / "decisions").mkdir()
        step.decide(folders, root / "decisions")
        found: list[Outcome] = []
        for number, part in enumerate(parts):
            function = step.open_decided(root / "decisions", number)
            for document in part:
                outcome = function(document)
                assert not isinstance(outcome, list)
                found.append(outcome)  # pyright: ignore[reportArgumentType]
        return found
