"""From a mixture of datasets on disk to batches: sample numbers in, arrays out, nothing remembered in between.

`open_mixture` opens the datasets, checks that they were tokenised with the model's vocabulary (`streams.py`), and works
out the order (`mixture_order.py`). `OpenMixture.batch(sample_numbers)` then reads S + 1 tokens per sample (`reader.py`). As a
batch is a pure function of its numbers, resuming is knowing the next number, and replicas need not talk to each other:
`batch_sample_numbers` deals every step's numbers out among any number of them. Shape legend: B batch, S sequence, T =
S + 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.data.batch import Batch, document_positions
from megaphi.data.mixture import Mixture, Source, Split, check_sources
from megaphi.data.mixture_order import MixtureOrder
from megaphi.data.order import ORDER_VERSION
from megaphi.data.reader import Runs, TokenReader
from megaphi.data.remote import RemoteReading
from megaphi.data.streams import TokenStream, open_streams
from megaphi.errors import InputError

DOCUMENT_FIELDS = ("isolate_documents", "reset_positions", "mask_document_ends")
"""Fields of the mixture that need to know where documents begin."""


class SourceSize(NamedTuple):
    """How much text a source of the mixture holds."""

    name: str
    tokens: int
    documents: int
    windows: int
    """Samples per epoch."""


class OpenMixture:
    """The sources of one split, open and in order. Use `open_mixture` to make one; threads may share it."""

    def __init__(
        self,
        mixture: Mixture,
        sources: Sequence[Source],
        streams: Sequence[TokenStream],
        order: MixtureOrder,
        *,
        vocabulary_size: int,
    ) -> None:
        """`sources`: those of the mixture that take part in this split."""
        self.mixture = mixture
        self.sources = tuple(sources)
        self.streams = tuple(streams)
        self.order = order
        self.reader = TokenReader(self.streams)
        self._vocabulary_size = vocabulary_size

    def batch(self, sample_numbers: ArrayLike) -> Batch:
        """The samples of these numbers (one dimension, any order): a pure function of them."""
        numbers_B = np.array(sample_numbers, dtype=np.int64)
        runs, shape = self._runs(numbers_B), {"rows": len(numbers_B), "count": self.order.sequence_length + 1}
        window_BT = self.reader.read(runs, **shape, vocabulary_size=self._vocabulary_size)
        tokens_BS, labels_BS = np.ascontiguousarray(window_BT[:, :-1]), np.ascontiguousarray(window_BT[:, 1:])
        loss_mask_BS = np.ones(tokens_BS.shape, dtype=np.float32)
        document_ids_BS = positions_BS = None
        if self._needs_documents:
            ids_BT = self.reader.document_ids(runs, **shape)
            if self.mixture.mask_document_ends:  # the label of a document's last token begins an unrelated one
                loss_mask_BS[ids_BT[:, 1:] != ids_BT[:, :-1]] = 0
            document_ids_BS = np.ascontiguousarray(ids_BT[:, :-1])
            positions_BS = document_positions(document_ids_BS) if self.mixture.reset_positions else None
        return Batch(
            tokens_BS=tokens_BS,
            labels_BS=labels_BS,
            loss_mask_BS=loss_mask_BS,
            document_ids_BS=document_ids_BS if self.mixture.isolate_documents else None,
            positions_BS=positions_BS,
            sample_numbers_B=numbers_B,
        )

    def prepare(self, sample_numbers: ArrayLike) -> None:
        """These samples will be wanted soon: start to fetch what object storage holds of them."""
        self.reader.prepare(self._runs(np.array(sample_numbers, dtype=np.int64)))

    def _runs(self, numbers_B: NDArray[np.int64]) -> Runs:
        """Where the S + 1 tokens of each sample lie."""
        places = self.order.locate(numbers_B)
        return self.reader.windows(places.source_B, places.start_token_B, self.order.sequence_length + 1)

    @property
    def _needs_documents(self) -> bool:
        return any(getattr(self.mixture, field) for field in DOCUMENT_FIELDS)

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
            "documents": [getattr(self.mixture, field) for field in DOCUMENT_FIELDS],
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
    split: Split = "training",
    total_samples: int | None = None,
    remote: RemoteReading | None = None,
) -> OpenMixture:
    """Open the datasets of a mixture's training or validation split.

    Args:
        tokenizer_fingerprint: `Phi4Tokenizer.fingerprint` of the model's vocabulary.
        total_samples: length of the run, which weights without a small common denominator need to come out exactly.
        remote: how datasets in object storage are read.

    Raises:
        InputError: a dataset is missing, damaged, or tokenised with another vocabulary; a source is too small for one
            sample; nothing belongs to this split.
    """
    chosen = [source for source in mixture.sources if paths_of(source, split)]
    if split == "training" and len(chosen) < len(mixture.sources):
        empty = next(source for source in mixture.sources if not source.paths)
        raise InputError(f"mixture.sources.{empty.name}.paths is empty: name at least one dataset prefix")
    if not chosen:
        raise InputError("no source of the mixture has validation_paths: name held-out datasets, or do not validate")
    streams = open_streams(
        {source.name: paths_of(source, split) for source in chosen},
        tokenizer_fingerprint=tokenizer_fingerprint,
        vocabulary_size=vocabulary_size,
        remote=remote,
    )
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
    return OpenMixture(mixture, chosen, streams, order, vocabulary_size=vocabulary_size)


def paths_of(source: Source, split: Split) -> tuple[str, ...]:
    return source.paths if split == "training" else source.validation_paths


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
