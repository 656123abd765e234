"""The plan of tokenising: files, cut into shards that are named after their content and the settings.

Every worker of a job makes the same plan by itself, from the files alone, and nothing is agreed upon. Shards are cut by
size only: the number of processes, of workers and of machines changes neither their names nor their content.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megaphi.data.lineage.record import lineages_of
from megaphi.data.order.permutation import ORDER_VERSION
from megaphi.data.storage.files.token_files import with_ending
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.text.documents import FilePiece, plan_pieces
from megaphi.data.text.input_files import LeftOut, find_files
from megaphi.data.text.input_identity import InputFile, identify
from megaphi.data.tokenize.settings import DecidedSettings
from megaphi.errors import InputError
from megaphi.tokenizer.interface import Tokenizer

SHARD_VERSION = 3
SMALLEST_SHARD = 1 << 20
USUAL_SHARDS = 1_024
LARGE_SHARD = 256 << 20
"""From this size on shards are not made larger (a kill costs each process the shard that it is at) ..."""
MOST_SHARDS = 4_096
"""... until there are this many: all are open while they are joined."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Pieces that are tokenised together, and the prefix that the result goes to."""

    prefix: Path
    pieces: tuple[FilePiece, ...]

    @property
    def size_bytes(self) -> int:
        return sum(piece.size_bytes for piece in self.pieces)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizePlan:
    """All that is known before any work."""

    output: Path
    files: list[InputFile]
    shards: list[Shard]
    """In input order; two with the same content have the same prefix."""
    settings: DecidedSettings
    description: dict[str, Any]
    """The part of PREFIX.json that determines the result."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """Files of the inputs' folders that are not read."""

    @property
    def input_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def parts_folder(self) -> Path:
        return parts_folder_of(self.output)

    @property
    def distinct_shards(self) -> list[Shard]:
        """Each content once, in input order."""
        return list({shard.prefix: shard for shard in self.shards}.values())


def parts_folder_of(output: str | os.PathLike[str]) -> Path:
    """Folder for finished shards of `output` until they are joined."""
    return with_ending(output, ".parts")


def make_plan(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    tokenizer: Tokenizer,
    settings: DecidedSettings,
    threads: int,
) -> TokenizePlan:
    """Identify the inputs and cut them into shards.

    Raises:
        InputError: an input is missing, unreadable or of an unknown format.
    """
    left_out = LeftOut()
    files = identify(find_files(inputs, left_out=left_out), threads=threads)
    asked = settings.asked
    fill = asked.fill_in_the_middle
    meaning = f"{SHARD_VERSION} {tokenizer.fingerprint} {settings.encoder} {fill} {asked.text_key} {asked.bad_records}"
    return TokenizePlan(
        output=Path(output),
        files=files,
        shards=_cut(files, parts_folder_of(output), meaning=meaning),
        settings=settings,
        description=_description(files, tokenizer, settings, lineages_of([file.path for file in files])),
        left_out=left_out,
    )


def plan_of_shards(
    prefixes: Sequence[Path],
    output: str | os.PathLike[str],
    *,
    tokenizer: Tokenizer,
    settings: DecidedSettings,
    lineage: Mapping[str, Any],
) -> TokenizePlan:
    """The plan of joining shards that are tokenised already, in this order, with these settings."""
    return TokenizePlan(
        output=Path(output),
        files=[],
        shards=[Shard(prefix, ()) for prefix in prefixes],
        settings=settings,
        description=_description([], tokenizer, settings, [lineage]),
    )


def _description(
    files: Sequence[InputFile], tokenizer: Tokenizer, settings: DecidedSettings, lineage: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    asked = settings.asked
    fill = asked.fill_in_the_middle
    return {
        "tokenizer": tokenizer.fingerprint,
        "vocabulary_size": tokenizer.vocabulary_size,
        "end_of_text": tokenizer.end_of_text,
        "encoder": settings.encoder,
        "text_key": asked.text_key,
        "fill_in_the_middle": asdict(fill) if fill else None,
        "order_seed": asked.shuffle_seed,
        "order_version": ORDER_VERSION,
        "bad_records": "skip" if asked.bad_records == "skip" else None,
        "inputs": [
            {"name": file.path.name, "bytes": file.size_bytes, "fingerprint": file.fingerprint} for file in files
        ],
        "lineage": list(lineage) or None,
    }


def is_up_to_date(plan: TokenizePlan) -> bool:
    """Return whether a complete dataset made by this plan exists."""
    try:
        dataset = IndexedDataset(plan.output)
        found = dataset.description or {}
    except InputError:
        return False
    same_plan = all(found.get(name) == value for name, value in plan.description.items())
    return same_plan and found.get("tokens") == dataset.token_count


def _cut(files: Sequence[InputFile], parts: Path, *, meaning: str) -> list[Shard]:
    """Cut the files into shards; `meaning` is all else that their tokens depend on."""
    total = sum(file.size_bytes for file in files)
    shard_bytes = max(SMALLEST_SHARD, min(total // USUAL_SHARDS, LARGE_SHARD), total // MOST_SHARDS)
    shards: list[Shard] = []
    pieces: list[FilePiece] = []
    digest = hashlib.sha256(meaning.encode())
    held = 0
    for file in files:
        for piece in plan_pieces(file.path, piece_bytes=shard_bytes):
            pieces.append(piece)
            digest.update(f" {piece.format.kind} {file.fingerprint} {piece.start} {piece.stop}".encode())
            held += piece.size_bytes
            if held >= shard_bytes:
                shards.append(Shard(parts / digest.hexdigest(), tuple(pieces)))
                pieces, digest, held = [], hashlib.sha256(meaning.encode()), 0
    if pieces:
        shards.append(Shard(parts / digest.hexdigest(), tuple(pieces)))
    return shards
