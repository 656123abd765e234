"""Turn files of documents into one tokenised dataset: PREFIX.bin, PREFIX.idx and PREFIX.json.

The input files are hashed and cut into shards; processes tokenise shards, each of which becomes a small dataset in
PREFIX.parts/, named after its content and the settings; when all are there, their documents are written once, in
shuffled order, and the folder is removed. So a killed run loses only the shards it was at, and a file that has not
changed is not tokenised again. The shuffle is a permutation of document numbers (`order.py`), and documents are
numbered in input order: the result depends neither on the number of processes nor on who finished first.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from megaphi.data.documents import Piece, find_files, plan_pieces, read_piece
from megaphi.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter, best_dtype, with_ending
from megaphi.data.order import ORDER_VERSION, KeyedPermutation, derive_key
from megaphi.errors import InputError
from megaphi.files import explain_write_errors, sha256_of
from megaphi.log import logger, progress_bar
from megaphi.tokenizer.phi4 import Phi4Tokenizer, load_tokenizer
from megaphi.tokenizer.special_tokens import FULL_VOCABULARY_SIZE

SHARD_VERSION = 1
SMALLEST_SHARD = 1 << 20
MOST_SHARDS = 256
"""Every shard is two mapped files while they are joined, and a process may often hold no more than 1,024."""
JOINED_DOCUMENTS = 1_024
"""Documents gathered for one write."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeSummary:
    """What `tokenize_documents` did."""

    prefix: Path
    files: int
    input_bytes: int
    documents: int
    empty_documents: int
    """Left out, as there is nothing in them."""
    tokens: int
    """One `<|endoftext|>` per document included."""
    seconds: float
    reused: bool
    """The dataset was there already, made from the same files with the same settings."""
    resumed_shards: int
    """Shards that an earlier, interrupted run had finished."""


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a worker process needs to know besides the pieces."""

    vocabulary_size: int
    ranks_file: str | None
    text_key: str


@dataclass(frozen=True, slots=True)
class _Shard:
    """Pieces that are tokenised together, and the prefix that the result goes to."""

    prefix: Path
    pieces: tuple[Piece, ...]

    @property
    def size_bytes(self) -> int:
        return sum(piece.size_bytes for piece in self.pieces)

    @property
    def is_finished(self) -> bool:
        return with_ending(self.prefix, ".idx").exists()


def tokenize_documents(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    vocabulary_size: int = FULL_VOCABULARY_SIZE,
    ranks_file: str | None = None,
    text_key: str = "text",
    shuffle_seed: int | None = 0,
    processes: int | None = None,
    show_progress: bool = True,
) -> TokenizeSummary:
    """Tokenise the documents of `inputs` (files, folders, patterns) into `output`.bin/.idx/.json.

    Every document ends with `<|endoftext|>`; empty ones are left out. A dataset that was made from the same files with
    the same settings is kept. Needs twice the dataset's size on disk for a moment.

    Args:
        vocabulary_size, ranks_file: which tokenizer, see `load_tokenizer`.
        text_key: the field or column that holds the text of a record.
        shuffle_seed: seed of the documents' order; None keeps the order of the inputs.
        processes: how many to tokenise with; None means one per processor.

    Raises:
        InputError: an input is missing or not what it should be (file and line named), the output cannot be written,
            or another process is writing it. Finished shards are kept for the next try.
    """
    began = time.monotonic()
    processes = processes or len(os.sched_getaffinity(0))
    tokenizer = load_tokenizer(vocabulary_size, ranks_file=ranks_file)
    settings = _Settings(vocabulary_size, ranks_file, text_key)
    files = _identify(find_files(inputs), threads=processes)
    plan = _describe_plan(tokenizer, files, text_key=text_key, shuffle_seed=shuffle_seed)
    resumed = 0
    if reused := _is_up_to_date(output, plan):
        logger.info("%s is up to date: kept as it is", os.fspath(output))
        _remove_leftovers(output)
    else:
        with _parts_folder(output) as parts:
            shards = _plan_shards(files, parts, meaning=f"{SHARD_VERSION} {tokenizer.fingerprint} {text_key}")
            resumed = _tokenize_missing(shards, settings, processes=processes, show_progress=show_progress)
            _join(shards, output, plan=plan, dtype=best_dtype(vocabulary_size), shuffle_seed=shuffle_seed)
    description = IndexedDataset(output).description or {}
    return TokenizeSummary(
        prefix=Path(output),
        files=len(files),
        input_bytes=sum(file.size_bytes for file in files),
        **{name: description[name] for name in ("documents", "empty_documents", "tokens")},
        seconds=time.monotonic() - began,
        reused=reused,
        resumed_shards=resumed,
    )


@dataclass(frozen=True, slots=True)
class _InputFile:
    path: Path
    size_bytes: int
    sha256: str


def _identify(paths: Sequence[Path], *, threads: int) -> list[_InputFile]:
    """Size and hash of every file; hashing lets go of the GIL, and is a hundredth of the work of tokenising."""
    with ThreadPoolExecutor(threads) as pool:
        try:
            hashes = list(pool.map(sha256_of, paths))
        except OSError as error:
            raise InputError(f"cannot read the input {error.filename}: {error.strerror}") from error
    return [_InputFile(path, path.stat().st_size, digest) for path, digest in zip(paths, hashes, strict=True)]


def _describe_plan(
    tokenizer: Phi4Tokenizer, files: Sequence[_InputFile], *, text_key: str, shuffle_seed: int | None
) -> dict[str, Any]:
    """The part of PREFIX.json that is known before any work: all that determines the result."""
    return {
        "tokenizer": tokenizer.fingerprint,
        "vocabulary_size": tokenizer.vocabulary_size,
        "end_of_text": tokenizer.end_of_text,
        "text_key": text_key,
        "order_seed": shuffle_seed,
        "order_version": ORDER_VERSION,
        "inputs": [{"name": file.path.name, "bytes": file.size_bytes, "sha256": file.sha256} for file in files],
    }


def _is_up_to_date(output: str | os.PathLike[str], plan: dict[str, Any]) -> bool:
    """Whether a whole dataset is there that was made by this plan."""
    try:
        dataset = IndexedDataset(output)
        description = dataset.description or {}
    except InputError:
        return False
    same_plan = all(description.get(name) == value for name, value in plan.items())
    return same_plan and description.get("tokens") == dataset.token_count


@contextmanager
def _parts_folder(output: str | os.PathLike[str]) -> Iterator[Path]:
    """The folder of finished shards, held by one process at a time; it goes when the block ends without an error."""
    folder = with_ending(output, ".parts")
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "wb")  # noqa: SIM115 (closed below)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is writing {os.fspath(output)}: wait for it, or stop it") from None
        yield folder
        shutil.rmtree(folder)


def _remove_leftovers(output: str | os.PathLike[str]) -> None:
    """Shards of a run that was killed after its result was in place."""
    if with_ending(output, ".parts").exists():
        with _parts_folder(output):
            pass


def _plan_shards(files: Sequence[_InputFile], parts: Path, *, meaning: str) -> list[_Shard]:
    """Cut the files into at most about `MOST_SHARDS` shards; `meaning` is all else that their tokens depend on."""
    shard_bytes = max(SMALLEST_SHARD, sum(file.size_bytes for file in files) // MOST_SHARDS)
    shards: list[_Shard] = []
    pieces: list[Piece] = []
    digest = hashlib.sha256(meaning.encode())
    held = 0
    for file in files:
        for piece in plan_pieces(file.path, piece_bytes=shard_bytes):
            pieces.append(piece)
            digest.update(f" {file.path.suffix} {file.sha256} {piece.start} {piece.stop}".encode())
            held += piece.size_bytes
            if held >= shard_bytes:
                shards.append(_Shard(parts / digest.hexdigest(), tuple(pieces)))
                pieces, digest, held = [], hashlib.sha256(meaning.encode()), 0
    if pieces:
        shards.append(_Shard(parts / digest.hexdigest(), tuple(pieces)))
    return shards


def _tokenize_missing(shards: Sequence[_Shard], settings: _Settings, *, processes: int, show_progress: bool) -> int:
    """Tokenise the shards that are not finished yet; returns how many were."""
    distinct = {shard.prefix: shard for shard in shards}
    missing = {prefix: shard for prefix, shard in distinct.items() if not shard.is_finished}
    resumed = len(distinct) - len(missing)
    if resumed:
        logger.info("%d of %d shards were finished by an earlier run", resumed, len(distinct))
    total = sum(shard.size_bytes for shard in distinct.values())
    left = sum(shard.size_bytes for shard in missing.values())
    with progress_bar(total=total, initial=total - left, unit="B", label="tokenise", visible=show_progress) as bar:
        for shard in _tokenize_each(list(missing.values()), settings, processes=min(processes, len(missing))):
            bar.update(shard.size_bytes)
    return resumed


def _tokenize_each(shards: Sequence[_Shard], settings: _Settings, *, processes: int) -> Iterator[_Shard]:
    """Tokenise in this process, or in several; yields each shard when it is finished, in any order."""
    if processes <= 1:
        for shard in shards:
            _tokenize_shard(shard, settings)
            yield shard
        return
    spawn = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start_worker) as pool:
        try:
            shard_of = {pool.submit(_tokenize_shard, shard, settings): shard for shard in shards}
            for future in as_completed(shard_of):
                future.result()
                yield shard_of[future]
        except BrokenProcessPool:
            raise InputError(
                "a tokenising process died, most likely for want of memory: run the same command again, with fewer"
                " processes; finished shards are kept"
            ) from None
        except BaseException:  # bad input or Ctrl-C: do not wait for shards that take minutes
            for process in set(multiprocessing.active_children()).difference(others):
                process.terminate()
            raise


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch_parent() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch_parent, daemon=True).start()


_tokenizer = functools.cache(load_tokenizer)


def _tokenize_shard(shard: _Shard, settings: _Settings) -> None:
    """Write one shard as a dataset of its own, documents in input order."""
    tokenizer = _tokenizer(settings.vocabulary_size, ranks_file=settings.ranks_file)
    empty = 0
    with IndexedDatasetWriter(shard.prefix, best_dtype(settings.vocabulary_size)) as writer:
        for piece in shard.pieces:
            for text in read_piece(piece, text_key=settings.text_key):
                if text:
                    writer.add_document([*tokenizer.encode(text), tokenizer.end_of_text])
                else:
                    empty += 1
        writer.finish({"empty_documents": empty})


def _join(
    shards: Sequence[_Shard],
    output: str | os.PathLike[str],
    *,
    plan: dict[str, Any],
    dtype: np.dtype[Any],
    shuffle_seed: int | None,
) -> None:
    """Write the documents of all shards, numbered through in input order, into one dataset in shuffled order."""
    parts = [IndexedDataset(shard.prefix) for shard in shards]
    first_numbers = [0, *accumulate(part.document_count for part in parts)]
    documents = first_numbers[-1]
    if documents == 0:
        raise InputError(f"there is no text in the inputs of {os.fspath(output)}: every document is empty")
    with IndexedDatasetWriter(output, dtype, temporary_folder=with_ending(output, ".parts")) as writer:
        for start in range(0, documents, JOINED_DOCUMENTS):
            numbers = np.arange(start, min(start + JOINED_DOCUMENTS, documents))
            if shuffle_seed is not None:
                order = KeyedPermutation(documents, derive_key(shuffle_seed, "documents"))
                numbers = order(numbers).astype(np.int64)
            places = np.searchsorted(first_numbers, numbers, side="right") - 1
            chosen = [
                parts[place].document(number - first_numbers[place])
                for place, number in zip(places.tolist(), numbers.tolist(), strict=True)
            ]
            writer.add_documents(np.concatenate(chosen), [len(tokens) for tokens in chosen])
        empty = sum((part.description or {})["empty_documents"] for part in parts)
        counts = {"documents": documents, "empty_documents": empty, "tokens": writer.token_count}
        writer.finish({**plan, **counts, "dtype": dtype.name})
