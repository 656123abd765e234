"""From a mixture of datasets on disk to batches: sample numbers in, arrays out, nothing remembered in between.

`open_mixture` maps the datasets, checks that they were tokenised with the model's vocabulary, and works out the order
(`mixture_order.py`). `OpenMixture.batch(numbers)` then copies S + 1 tokens per sample out of the maps. As a batch is a
pure function of its numbers, resuming is knowing the next number, and replicas need not talk to each other:
`batch_sample_numbers` deals every step's numbers out among any number of them. Shape legend: B batch, S sequence.
"""

from __future__ import annotations

import functools
import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.data.batch import Batch
from megaphi.data.indexed_dataset import IndexedDataset
from megaphi.data.mixture import Mixture, Source, Split, check_sources
from megaphi.data.mixture_order import MixtureOrder
from megaphi.data.order import ORDER_VERSION
from megaphi.errors import InputError
from megaphi.log import logger

SAMPLED_TOKENS = 1 << 20
"""Tokens that are looked at in a dataset that does not say which tokenizer it was made with."""


class SourceSize(NamedTuple):
    """How much text a source of the mixture holds."""

    name: str
    tokens: int
    documents: int
    windows: int
    """Samples per epoch."""


@dataclass(frozen=True)
class TokenStream:
    """Several datasets read as one ring of tokens: the first follows the last."""

    datasets: tuple[IndexedDataset, ...]

    @functools.cached_property
    def ends(self) -> list[int]:
        """Where each dataset ends in the stream, in tokens."""
        return list(accumulate(dataset.token_count for dataset in self.datasets))

    @property
    def token_count(self) -> int:
        return self.ends[-1]

    @property
    def document_count(self) -> int:
        return sum(dataset.document_count for dataset in self.datasets)

    def copy_into(self, out_S: NDArray[np.int64], *, start: int) -> None:
        """Fill `out_S` with the tokens from `start` on, across the ends of datasets and around the ring."""
        filled = 0
        while filled < len(out_S):
            start %= self.token_count
            place = bisect_right(self.ends, start)
            count = min(len(out_S) - filled, self.ends[place] - start)
            dataset = self.datasets[place]
            offset = start - (self.ends[place] - dataset.token_count)
            out_S[filled : filled + count] = dataset.tokens(offset, count)
            filled += count
            start += count


class OpenMixture:
    """The sources of one split, open and in order. Use `open_mixture` to make one; threads may share it."""

    def __init__(
        self,
        sources: Sequence[Source],
        streams: Sequence[TokenStream],
        order: MixtureOrder,
        *,
        vocabulary_size: int,
        end_of_text: int | None,
    ) -> None:
        """`end_of_text`: where documents end, to isolate them; None lets attention cross them."""
        self.sources = tuple(sources)
        self.streams = tuple(streams)
        self.order = order
        self._vocabulary_size = vocabulary_size
        self._end_of_text = end_of_text

    def batch(self, sample_numbers: ArrayLike) -> Batch:
        """The samples of these numbers (one dimension, any order): a pure function of them."""
        numbers_B = np.array(sample_numbers, dtype=np.int64)
        places = self.order.locate(numbers_B)
        length = self.order.sequence_length
        window_BT = np.empty((len(numbers_B), length + 1), dtype=np.int64)
        for row_T, source, start in zip(
            window_BT, places.source_B.tolist(), places.start_token_B.tolist(), strict=True
        ):
            self.streams[source].copy_into(row_T, start=start)
        self._check_range(window_BT, places.source_B)
        tokens_BS = np.ascontiguousarray(window_BT[:, :-1])
        return Batch(
            tokens_BS=tokens_BS,
            labels_BS=np.ascontiguousarray(window_BT[:, 1:]),
            loss_mask_BS=np.ones(tokens_BS.shape, dtype=np.float32),
            document_ids_BS=None if self._end_of_text is None else document_ids(tokens_BS, self._end_of_text),
            sample_numbers_B=numbers_B,
        )

    def _check_range(self, window_BT: NDArray[np.int64], source_B: NDArray[np.int64]) -> None:
        """A token outside the vocabulary would read or crash somewhere else, far from its cause."""
        if window_BT.size and (window_BT.min() < 0 or window_BT.max() >= self._vocabulary_size):
            wrong_B = ((window_BT < 0) | (window_BT >= self._vocabulary_size)).any(axis=1)
            source = self.sources[int(source_B[np.argmax(wrong_B)])]
            raise InputError(
                f"source {source.name!r} holds token ids from {window_BT[wrong_B].min()} to {window_BT[wrong_B].max()},"
                f" but the model's vocabulary is {self._vocabulary_size}: it is damaged, or was made with another one"
            )

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of all that decides what is in a batch of given numbers: data, weights, order, lengths."""
        order = self.order
        meaning = {
            "order": [ORDER_VERSION, order.split, order.seed, order.sequence_length, order.blend.horizon],
            "sources": [
                [source.name, str(share)] for source, share in zip(self.sources, order.blend.shares, strict=True)
            ],
            "datasets": [[dataset.fingerprint for dataset in stream.datasets] for stream in self.streams],
            "isolate_documents": self._end_of_text is not None,
        }
        return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()

    def counts(self, samples: int) -> dict[str, int]:
        """Samples taken from each source by the first `samples` of the run."""
        return self.order.counts(samples)

    def epochs(self, samples: int) -> dict[str, float]:
        """How often the first `samples` of the run go through each source."""
        return self.order.epochs(samples)

    def describe(self) -> list[SourceSize]:
        """What there is to read, source by source."""
        rows = zip(self.sources, self.streams, self.order.windows, strict=True)
        return [
            SourceSize(source.name, stream.token_count, stream.document_count, windows)
            for source, stream, windows in rows
        ]


def open_mixture(
    mixture: Mixture,
    *,
    sequence_length: int,
    seed: int,
    tokenizer_fingerprint: str,
    vocabulary_size: int,
    end_of_text: int,
    split: Split = "training",
    total_samples: int | None = None,
) -> OpenMixture:
    """Open the datasets of a mixture's training or validation split.

    Args:
        tokenizer_fingerprint: `Phi4Tokenizer.fingerprint` of the model's vocabulary.
        end_of_text: the id that ends every document.
        total_samples: length of the run, which weights without a small common denominator need to come out exactly.

    Raises:
        InputError: a dataset is missing, damaged, or tokenised with another vocabulary; a source is too small for one
            sample; nothing belongs to this split; documents are to be isolated but do not end with `end_of_text`.
    """
    chosen = [source for source in mixture.sources if paths_of(source, split)]
    if split == "training" and len(chosen) < len(mixture.sources):
        empty = next(source for source in mixture.sources if not source.paths)
        raise InputError(f"mixture.sources.{empty.name}.paths is empty: name at least one dataset prefix")
    if not chosen:
        raise InputError("no source of the mixture has validation_paths: name held-out datasets, or do not validate")
    streams = [TokenStream(tuple(IndexedDataset(path) for path in paths_of(source, split))) for source in chosen]
    for stream in streams:
        for dataset in stream.datasets:
            check_vocabulary(dataset, tokenizer_fingerprint=tokenizer_fingerprint, vocabulary_size=vocabulary_size)
            if mixture.isolate_documents:
                check_document_end(dataset, end_of_text=end_of_text)
    check_sources(chosen)
    order = MixtureOrder(
        [source.name for source in chosen],
        [source.weight for source in chosen],
        token_counts=[stream.token_count for stream in streams],
        sequence_length=sequence_length,
        seed=seed,
        split=split,
        total_samples=total_samples,
    )
    boundary = end_of_text if mixture.isolate_documents else None
    return OpenMixture(chosen, streams, order, vocabulary_size=vocabulary_size, end_of_text=boundary)


def paths_of(source: Source, split: Split) -> tuple[str, ...]:
    return source.paths if split == "training" else source.validation_paths


def check_vocabulary(dataset: IndexedDataset, *, tokenizer_fingerprint: str, vocabulary_size: int) -> None:
    """Refuse ids that mean something else to the model, or nothing.

    A dataset that another program wrote does not say what its ids mean; then only the range of a sample can be checked.
    """
    description = dataset.description
    if description is not None and "tokenizer" in description:
        if description["tokenizer"] != tokenizer_fingerprint:
            raise InputError(
                f"{dataset.prefix} was tokenised with another vocabulary (of {description.get('vocabulary_size')}"
                f" tokens, fingerprint {str(description['tokenizer'])[:12]}) than the model's ({vocabulary_size}"
                f" tokens, {tokenizer_fingerprint[:12]}): tokenise it again, or choose the model's vocabulary to match"
            )
        return
    largest = max((int(tokens.max()) for tokens in _sample(dataset)), default=0)
    if largest >= vocabulary_size:
        raise InputError(f"{dataset.prefix} holds token {largest}, but the model's vocabulary is {vocabulary_size}")
    logger.warning("%s has no .json that names its tokenizer: taking its ids as they are", dataset.prefix)


def _sample(dataset: IndexedDataset, *, stretches: int = 16) -> list[NDArray[np.integer]]:
    """Stretches of tokens spread evenly from the first token to the last."""
    count = min(dataset.token_count, SAMPLED_TOKENS // stretches)
    starts = np.linspace(0, dataset.token_count - count, stretches).astype(np.int64)
    return [dataset.tokens(start, count) for start in starts.tolist()] if count else []


def check_document_end(dataset: IndexedDataset, *, end_of_text: int) -> None:
    """Refuse to isolate documents that are not marked: boundaries are found by the token that ends a document."""
    if dataset.token_count and dataset.tokens(dataset.token_count - 1, 1)[0] != end_of_text:
        raise InputError(
            f"mixture.isolate_documents needs documents that end with token {end_of_text} (<|endoftext|>); those of"
            f" {dataset.prefix} do not: tokenise it with `megaphi tokenize`, or turn isolate_documents off"
        )


def document_ids(tokens_BS: NDArray[np.int64], end_of_text: int) -> NDArray[np.int32]:
    """Number of documents that ended before each position of its row: the token that ends one still belongs to it."""
    ids_BS = np.zeros(tokens_BS.shape, dtype=np.int32)
    np.cumsum(tokens_BS[:, :-1] == end_of_text, axis=1, out=ids_BS[:, 1:])
    return ids_BS


def batch_sample_numbers(
    step: int, *, global_batch: int, replica: int, replicas: int, micro_batch: int
) -> NDArray[np.int64]:
    """Sample numbers of one replica's share of a step: [micro_batches, micro_batch], step and replica from 0.

    Step s takes the samples s G .. (s + 1) G - 1 (G: `global_batch`), whatever the number of replicas. Micro-batch m of
    all replicas together is the m-th stretch of them, so replicas that advance together read near each other.
    """
    if global_batch % (replicas * micro_batch):
        raise InputError(
            f"batch.global_batch={global_batch} cannot be dealt out to {replicas} replicas in micro-batches of"
            f" {micro_batch}: use a multiple of {replicas * micro_batch}"
        )
    if not 0 <= replica < replicas or step < 0:
        raise ValueError(f"step {step}, replica {replica} of {replicas}")
    numbers = np.arange(step * global_batch, (step + 1) * global_batch, dtype=np.int64)
    return numbers.reshape(-1, replicas, micro_batch)[:, replica]
