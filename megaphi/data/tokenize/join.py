"""Write the documents of all shards into one dataset, in shuffled order, with bounded memory and open files.

Documents are numbered through in input order, and a keyed permutation says which comes where, so nothing is sorted and
nothing is remembered. The new order is filled window by window: the documents of a window are looked up shard by shard,
and read into their places. At most `OPEN_SHARDS` shards are open and `WINDOW_BYTES` of tokens in memory, however many
shards and documents there are. The price is that every window visits most shards, so keep PREFIX on a file system that
reads small pieces well; where fewer shards may be open than there are, they are opened again for each window.
"""

from __future__ import annotations

import functools
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megaphi.data.lineage.copies import CopyCounter
from megaphi.data.order.permutation import KeyedPermutation, derive_key
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset, best_dtype
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.data.tokenize.plan import Shard, TokenizePlan
from megaphi.data.tokenize.shards import ShardCounts, count_shard
from megaphi.errors import InputError
from megaphi.log import progress_bar

OPEN_SHARDS = 4_096
"""At most, and no more than half the files that this process may open: each shard is two."""
SPARE_FILES = 64
WINDOW_BYTES = 256 << 20
WINDOW_DOCUMENTS = 1 << 16

Open = Callable[[Path], IndexedDataset]


@dataclass(frozen=True, slots=True)
class Places:
    """Documents of one window: the shard of each and its number in there."""

    shards_N: NDArray[np.int64]
    numbers_N: NDArray[np.int64]


def corrupted_shards(shards: Sequence[Shard]) -> list[Shard]:
    """Shards that do not open; a look at the size and the edges of each."""
    return [shard for shard in shards if count_shard(shard) is None]


def join_shards(plan: TokenizePlan, *, show_progress: bool) -> None:
    """Write PLAN.output from its finished shards.

    Raises:
        InputError: there is no document in them, a shard cannot be read, or the output cannot be written.
    """
    counts = _count_all(plan)
    first_numbers = np.concatenate([[0], np.cumsum([count.documents for count in counts], dtype=np.int64)])
    documents, tokens = int(first_numbers[-1]), sum(count.tokens for count in counts)
    if documents == 0:
        raise InputError(f"there is no text in the inputs of {plan.output}: every document is empty")
    dtype = best_dtype(plan.settings.vocabulary_size)
    open_shard = functools.lru_cache(maxsize=_allowed_open_shards())(IndexedDataset)
    prefixes = [shard.prefix for shard in plan.shards]
    window = max(1, min(WINDOW_DOCUMENTS, WINDOW_BYTES * documents // max(1, tokens * dtype.itemsize)))
    with (
        IndexedDatasetWriter(plan.output, dtype, temporary_folder=plan.parts_folder) as writer,
        CopyCounter(documents, plan.parts_folder) as copies,
        progress_bar(total=tokens, unit=" tokens", label="join", visible=show_progress) as bar,
    ):
        for numbers_N in _windows(documents, plan.settings.asked.shuffle_seed, window=window):
            shards_N = np.searchsorted(first_numbers, numbers_N, side="right") - 1
            places = Places(shards_N, numbers_N - first_numbers[shards_N])
            for tokens_M, lengths_N in _read_window(places, prefixes, open_shard, dtype):
                writer.add_documents(tokens_M, lengths_N)
                copies.add(tokens_M, lengths_N)
                bar.update(len(tokens_M))
        empty = sum(count.empty_documents for count in counts)
        found = {"documents": documents, "empty_documents": empty, "tokens": writer.token_count}
        found |= {f"unique_{name}": count for name, count in copies.unique()._asdict().items()}
        left_out = _sum_of_left_out(counts)
        writer.finish({**plan.description, **found, "left_out": left_out, "dtype": dtype.name})


def _sum_of_left_out(counts: Sequence[ShardCounts]) -> dict[str, list[Any]]:
    """By reason, how many records of all shards were left out, and the place of the first."""
    total: dict[str, list[Any]] = {}
    for shard in counts:
        for reason, (count, first) in shard.left_out.items():
            total.setdefault(reason, [0, first])[0] += count
    return total


def _allowed_open_shards() -> int:
    """As many as `OPEN_SHARDS` if this process may; its limit (often 1,024 files) is raised as far as it may itself."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * OPEN_SHARDS + SPARE_FILES
    if limit < wanted and limit != resource.RLIM_INFINITY:
        limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    return OPEN_SHARDS if limit == resource.RLIM_INFINITY else max(1, min(OPEN_SHARDS, (limit - SPARE_FILES) // 2))


def _count_all(plan: TokenizePlan) -> list[ShardCounts]:
    """Counts of every shard in input order; one that occurs twice is opened once."""
    known: dict[Path, ShardCounts] = {}
    for shard in plan.distinct_shards:
        counts = count_shard(shard)
        if counts is None:
            raise InputError(f"the shard {shard.prefix} cannot be read: run the same command again to rebuild it")
        known[shard.prefix] = counts
    return [known[shard.prefix] for shard in plan.shards]


def _windows(documents: int, seed: int | None, *, window: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of the documents in their new order, some at a time."""
    order = None if seed is None else KeyedPermutation(documents, derive_key(seed, "documents"))
    for start in range(0, documents, window):
        numbers_N = np.arange(start, min(start + window, documents), dtype=np.int64)
        yield numbers_N if order is None else order(numbers_N).astype(np.int64)


def _read_window(
    places: Places, prefixes: Sequence[Path], open_shard: Open, dtype: np.dtype[Any]
) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
    """Tokens and lengths of the documents of a window, in as many steps as `WINDOW_BYTES` asks for."""
    lengths_N = np.empty(len(places.numbers_N), dtype=np.int64)
    for shard, chosen_M in _by_shard(places, 0, len(lengths_N)):
        # A shard is one sequence a document.
        lengths_N[chosen_M] = open_shard(prefixes[shard]).sequence_lengths[places.numbers_N[chosen_M]]
    ends_N = np.cumsum(lengths_N)
    start = 0
    while start < len(lengths_N):
        before = int(ends_N[start - 1]) if start else 0
        fitting = int(np.searchsorted(ends_N, before + WINDOW_BYTES // dtype.itemsize, side="right"))
        stop = max(start + 1, fitting)
        tokens_M = np.empty(int(ends_N[stop - 1]) - before, dtype=dtype)
        for shard, chosen_M in _by_shard(places, start, stop):
            dataset = open_shard(prefixes[shard])
            for place in chosen_M.tolist():
                end = int(ends_N[place]) - before
                tokens_M[end - int(lengths_N[place]) : end] = dataset.document(int(places.numbers_N[place]))
        yield tokens_M, lengths_N[start:stop]
        start = stop


def _by_shard(places: Places, start: int, stop: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """(shard, places of the window that it fills, in the order in which they lie in the shard)."""
    order_M = start + np.lexsort((places.numbers_N[start:stop], places.shards_N[start:stop]))
    shards_M = places.shards_N[order_M]
    for group_M in np.split(order_M, np.flatnonzero(np.diff(shards_M)) + 1):
        if len(group_M):
            yield int(places.shards_N[group_M[0]]), group_M
