"""Tokenise shards, in this process or in several, each into a small dataset of its own in the folder of parts.

A shard is written under a temporary name and renamed, its index last: an index that is there marks a shard as finished.
Shards are found by listing the folder, never by asking for a name, because network file systems remember for a while
that a name was not there. Two processes that work on one shard by mistake write the same bytes twice and harm nothing.
A shard that a power cut has truncated does not open, and counts as missing.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megaphi.data.storage.files.token_files import with_ending
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset, best_dtype
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.data.text.bad_records import BadRecords
from megaphi.data.text.documents import FilePiece, read_piece
from megaphi.data.tokenize.encoders import (
    GIGATOKEN,
    SPOT_CHECK_EVERY,
    Encode,
    find_doubtful_characters,
    open_encoder,
    spot_check,
)
from megaphi.data.tokenize.fill_in_the_middle import rearrange
from megaphi.data.tokenize.plan import Shard
from megaphi.data.tokenize.settings import DecidedSettings
from megaphi.errors import InputError
from megaphi.log import logger, progress_bar
from megaphi.tokenizer.interface import Tokenizer
from megaphi.tokenizer.open_tokenizer import PHI4, open_path
from megaphi.worker_processes import each_in_processes

BATCH_TOKENS = 1 << 18
"""Tokens that are gathered for one write."""


class ShardCounts(NamedTuple):
    """Contents of a shard, as counts."""

    documents: int
    empty_documents: int
    tokens: int
    left_out: dict[str, list[Any]]
    """By reason, how many records hold no text, and the place of the first."""


def missing_shards(shards: Iterable[Shard]) -> list[Shard]:
    """Those of which no index is there, by one listing of their folder."""
    listed: dict[Path, set[str]] = {}
    return [
        shard
        for shard in shards
        if with_ending(shard.prefix.name, ".idx").name not in _names_in(shard.prefix.parent, listed)
    ]


def _names_in(folder: Path, listed: dict[Path, set[str]]) -> set[str]:
    if folder not in listed:
        try:
            listed[folder] = {entry.name for entry in os.scandir(folder)}
        except FileNotFoundError:
            listed[folder] = set()
    return listed[folder]


def open_shard(prefix: Path) -> IndexedDataset | None:
    """A finished shard; None, and a warning, if it is there but corrupted."""
    try:
        dataset = IndexedDataset(prefix)
        if isinstance((dataset.description or {}).get("empty_documents"), int):
            return dataset
        reason = f"{with_ending(prefix, '.json')} is missing or incomplete"
    except InputError as error:
        reason = str(error)
    logger.warning("a finished shard is corrupted and will be rebuilt: %s", reason)
    return None


def count_shard(shard: Shard) -> ShardCounts | None:
    """Documents and tokens of a finished shard; None if it is corrupted."""
    dataset = open_shard(shard.prefix)
    if dataset is None:
        return None
    found = dataset.description or {}
    return ShardCounts(dataset.document_count, found["empty_documents"], dataset.token_count, found.get("left_out", {}))


def tokenize_missing(shards: Sequence[Shard], settings: DecidedSettings, *, processes: int, show_progress: bool) -> int:
    """Tokenise those of `shards` that are not finished yet or corrupted; returns how many were there."""
    missing = missing_shards(shards)
    absent = {shard.prefix for shard in missing}
    missing += [shard for shard in shards if shard.prefix not in absent and count_shard(shard) is None]
    resumed = len(shards) - len(missing)
    if resumed:
        logger.info("%d of %d shards were finished by an earlier run", resumed, len(shards))
    if not missing:
        return resumed
    doubtful = find_doubtful_characters(settings.encoder, ranks_file=settings.asked.ranks_file)
    settings = replace(settings, doubtful=doubtful)
    total = sum(shard.size_bytes for shard in shards)
    left = sum(shard.size_bytes for shard in missing)
    tokens = 0
    with progress_bar(total=total, initial=total - left, unit="B", label="tokenise", visible=show_progress) as bar:
        for shard, counts in _tokenize_each(missing, settings, processes=processes):
            tokens += counts.tokens
            elapsed = bar.format_dict["elapsed"] or 1.0
            bar.set_postfix_str(f"{tokens / elapsed / 1e6:.2f}M tokens/s", refresh=False)
            bar.update(shard.size_bytes)
    return resumed


def _tokenize_each(
    shards: Sequence[Shard], settings: DecidedSettings, *, processes: int
) -> Iterator[tuple[Shard, ShardCounts]]:
    """Tokenise in this process, or in several: each shard when it is finished, in any order."""
    advice = "run the same command again, with fewer processes; finished shards are kept"
    return each_in_processes(tokenize_shard, shards, settings, processes=processes, advice=advice)


@functools.cache
def tokenizer_at(path: str, vocabulary_size: int | None, ranks_file: str | None) -> Tokenizer:
    """`open_path`, once in a process; only Phi-4's is cut to `vocabulary_size`."""
    return open_path(path, vocabulary=vocabulary_size if path == PHI4 else None, ranks_file=ranks_file)


def tokenizer_of(settings: DecidedSettings) -> Tokenizer:
    return tokenizer_at(settings.asked.tokenizer, settings.vocabulary_size, settings.asked.ranks_file)


@functools.cache
def _tools(settings: DecidedSettings) -> tuple[Tokenizer, Encode]:
    tokenizer = tokenizer_of(settings)
    return tokenizer, open_encoder(settings.encoder, tokenizer, doubtful=settings.doubtful)


def tokenize_shard(shard: Shard, settings: DecidedSettings) -> ShardCounts:
    """Write one shard as a dataset of its own, documents in input order."""
    tokenizer, encode = _tools(settings)
    empty = held = 0
    bad = BadRecords(settings.asked.bad_records)
    batch: list[NDArray[np.uint32]] = []
    lengths: list[int] = []
    with IndexedDatasetWriter(shard.prefix, best_dtype(settings.vocabulary_size)) as writer:
        for number, (piece, text) in enumerate(_texts(shard, settings, bad)):
            if not text:
                empty += 1
                continue
            if settings.encoder == GIGATOKEN and number % SPOT_CHECK_EVERY == 0:
                where = f"document {number:,} of the shard that begins with {shard.pieces[0].path}, in {piece.path}"
                spot_check(text, encode(text), tokenizer, encoder=settings.encoder, where=where)
            parts = _encode_document(text, tokenizer, encode, settings)
            batch += parts
            lengths.append(sum(map(len, parts)))
            held += lengths[-1]
            if held >= BATCH_TOKENS:
                writer.add_documents(np.concatenate(batch), lengths)
                batch, lengths, held = [], [], 0
        if lengths:
            writer.add_documents(np.concatenate(batch), lengths)
        bad.raise_if_refused()
        counts = ShardCounts(writer.document_count, empty, writer.token_count, bad.summary())
        writer.finish({"empty_documents": empty, "left_out": counts.left_out})
    return counts


def _texts(shard: Shard, settings: DecidedSettings, bad: BadRecords) -> Iterator[tuple[FilePiece, str]]:
    for piece in shard.pieces:
        for text in read_piece(piece, text_key=settings.asked.text_key, refuse=bad.add):
            yield piece, text


def _encode_document(
    text: str, tokenizer: Tokenizer, encode: Encode, settings: DecidedSettings
) -> list[NDArray[np.uint32]]:
    """Ids of a document, with its start and its end: a list of arrays."""
    ids, end = [_one_token(token) for token in tokenizer.text_start], _one_token(tokenizer.end_of_text)
    if settings.asked.fill_in_the_middle is None:
        return [*ids, encode(text), end]
    for part in rearrange(text, settings.asked.fill_in_the_middle):
        if part.sentinel is not None:
            ids.append(_one_token(tokenizer.special_ids[part.sentinel]))
        if part.text:
            ids.append(encode(part.text))
    return [*ids, end]


@functools.cache
def _one_token(token: int) -> NDArray[np.uint32]:
    return np.array([token], dtype=np.uint32)
