"""Batches from a mixture of datasets on disk: sample numbers in, arrays out, no state in between.

`open_mixture` opens the datasets and works out the order of the run (`run_order.py`; `megatron_order.py` for a run that
began in Megatron-LM). `OpenMixture.batch(sample_numbers)` asks the order where those samples lie and reads them. As a
batch is a pure function of its numbers, resuming is knowing the next number, and replicas need not talk to each other:
`batch_sample_numbers` deals every step's numbers out among any number of them. Shape legend: B batch, S sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.data.batch import NO_SAMPLE, Batch, document_positions
from megaphi.data.loading.continuation import continue_run, warm_start
from megaphi.data.order.document_windows import Coverage, document_windows
from megaphi.data.order.ledger import (
    Cursor,
    DataContinuation,
    DatasetRecord,
    Ledger,
    Origin,
    SourceRecord,
    read_ledger,
)
from megaphi.data.order.megatron_run import MegatronRun, megatron_run
from megaphi.data.order.mixture import Mixture, Source, Split, check_sources
from megaphi.data.order.permutation import ORDER_VERSION
from megaphi.data.order.run_order import RunOrder, SourceTokens
from megaphi.data.order.schedule import StageSpan, single_stage
from megaphi.data.storage.files.token_files import is_url
from megaphi.data.storage.formats.token_dataset import TokenLayout
from megaphi.data.storage.reader import TokenReader
from megaphi.data.storage.streams import SAMPLED_TOKENS, TokenStream, open_streams
from megaphi.errors import InputError
from megaphi.log import logger

SampleOrder = RunOrder | MegatronRun


class SourceSize(NamedTuple):
    """Amount of text in a source of the mixture."""

    name: str
    tokens: int
    documents: int | None
    """None where its format does not say."""
    datasets: int


class OpenMixture:
    """The sources of one split, open and in order. Use `open_mixture` to make one; threads may share it."""

    def __init__(
        self,
        mixture: Mixture,
        sources: Sequence[Source],
        streams: Sequence[TokenStream],
        reader: TokenReader,
        order: SampleOrder,
        *,
        spans: Sequence[StageSpan],
        vocabulary_size: int,
        former: Sequence[SourceRecord] = (),
    ) -> None:
        """`former`: records of sources that the run once had, for its ledger."""
        self.mixture = mixture
        self.sources = tuple(sources)
        self.streams = tuple(streams)
        self.order = order
        self.spans = tuple(spans)
        self.reader = reader
        self._vocabulary_size = vocabulary_size
        self._former = tuple(former)

    def batch(self, sample_numbers: ArrayLike) -> Batch:
        """The samples of these numbers (one dimension, any order, of one stage): a pure function of them.

        A row of `NO_SAMPLE` holds arbitrary tokens, all of them masked.
        """
        numbers_B = np.array(sample_numbers, dtype=np.int64)
        is_padding_B = numbers_B == NO_SAMPLE
        drawn_B = np.where(is_padding_B, self.order.origin.sample, numbers_B)
        runs, length, targets_B = self.order.runs(drawn_B, self.reader)
        shape = {"rows": len(numbers_B), "count": length + 1}
        tokens_BS, labels_BS = self.reader.read(runs, **shape, vocabulary_size=self._vocabulary_size)
        mixture = self.mixture
        loss_mask_BS = np.ones((len(numbers_B), length), dtype=np.float32)
        loss_mask_BS[is_padding_B] = 0
        for row in np.flatnonzero(targets_B < length):  # the document has ended: repeat its end, which is not trained
            end = targets_B[row]
            tokens_BS[row, end:] = labels_BS[row, end:] = labels_BS[row, end - 1]
            loss_mask_BS[row, end:] = 0
        documents_BS = positions_BS = None
        if mixture.isolate_documents or mixture.reset_positions or mixture.mask_document_ends:
            documents_BT = self.reader.document_ids(runs, **shape)
            documents_BS = np.ascontiguousarray(documents_BT[:, :-1])
            if mixture.reset_positions:
                positions_BS = document_positions(documents_BS)
            if mixture.mask_document_ends:  # the label of a document's last token begins an unrelated one
                loss_mask_BS[documents_BT[:, 1:] != documents_BS] = 0
        return Batch(
            tokens_BS=tokens_BS,
            labels_BS=labels_BS,
            loss_mask_BS=loss_mask_BS,
            document_ids_BS=documents_BS if mixture.isolate_documents else None,
            positions_BS=positions_BS,
            sample_numbers_B=numbers_B,
        )

    def numbers_by_source(self, samples: int) -> dict[str, NDArray[np.int64]]:
        """Numbers of the first `samples` samples, by source; a source without any is a key too."""
        order = self.order
        assert isinstance(order, RunOrder)  # that of held-out data always is
        source_B = order.locate(np.arange(samples))[0].source_B
        drawn = {source.name: np.flatnonzero(source_B == index) for index, source in enumerate(self.sources)}
        return {source.name: drawn.get(source.name, source_B[:0]) for source in self.mixture.sources}

    def prepare(self, sample_numbers: ArrayLike) -> None:
        """Announce samples that will be read soon, to prefetch them from object storage."""
        if self.reader.is_remote:
            runs, _, _ = self.order.runs(np.array(sample_numbers, dtype=np.int64), self.reader)
            self.reader.prepare(runs)

    def at(self, origin: Origin, cursors: Mapping[str, Cursor], *, former: Sequence[SourceRecord] = ()) -> OpenMixture:
        """The same data, its samples counted from `origin`, where its sources stand at `cursors`."""
        order = self.order
        if isinstance(order, RunOrder):
            order = RunOrder(
                self.spans,
                order.sources,
                seed=order.seed,
                split=order.split,
                origin=origin,
                cursors=cursors,
                block_tokens=order.block_tokens,
            )
        return OpenMixture(
            self.mixture,
            self.sources,
            self.streams,
            self.reader,
            order,
            spans=self.spans,
            vocabulary_size=self._vocabulary_size,
            former=former,
        )

    def continuation(
        self, state: Mapping[str, Any], position: Origin, *, accept_changes: bool, where: str
    ) -> DataContinuation:
        """The point at which a run goes on that has come to `position`; reads a little of every dataset."""
        ledger = read_ledger(state, where=where)
        return continue_run(ledger, self, position=position, accept_changed_data=accept_changes, where=where)

    def continuation_of_sources(self, state: Mapping[str, Any], *, where: str) -> DataContinuation:
        """The point at which a new run begins whose sources continue where those of another run stopped."""
        if "ledger" not in state:
            raise InputError(
                f"start.continue_sources=true: {where} does not know what its weights have read; set it to false"
            )
        return warm_start(read_ledger(state, where=where), self)

    def continued(self, continuation: DataContinuation) -> OpenMixture:
        return self.at(continuation.origin, continuation.cursors, former=continuation.former)

    def facts(self) -> dict[str, str]:
        """Identity of every dataset; objects in remote storage go by their name. Reads a little of every other one."""
        return {
            f"source {source}, dataset {number}": (
                f"{one.name if is_url(one.name) else one.fingerprint[:16]} ({one.tokens:,} tokens)"
            )
            for source, datasets in self.datasets().items()
            for number, one in enumerate(datasets, start=1)
        }

    def datasets(self) -> dict[str, tuple[DatasetRecord, ...]]:
        """Return the datasets of each source; reads a little of every one."""
        return {
            source.name: tuple(
                DatasetRecord(
                    name=dataset.name,
                    tokens=dataset.token_count,
                    documents=dataset.document_count,
                    fingerprint=dataset.fingerprint,
                )
                for dataset in stream.datasets
            )
            for source, stream in zip(self.sources, self.streams, strict=True)
        }

    def ledger(self, step: int) -> Ledger:
        """Return the data ledger of a checkpoint after `step` steps."""
        order = self.order
        samples = order.position_at(step).sample
        now = order.cursors(samples)
        records = [
            SourceRecord(name=name, datasets=datasets, at_origin=order.cursors_at_origin[name], now=now[name])
            for name, datasets in self.datasets().items()
        ]
        return Ledger(
            order=order.kind,
            order_version=ORDER_VERSION,
            seed=order.seed,
            origin=order.origin,
            segments=order.begun(samples),
            sources=(*records, *self._former),
        )

    def tokens_by_source(self, samples: int) -> dict[str, int]:
        """Tokens taken from each source by the first `samples` of the run."""
        return {name: cursor.drawn for name, cursor in self.order.cursors(samples).items()}

    def epochs(self, samples: int) -> dict[str, float]:
        """Number of epochs of each source in the first `samples` samples of the run."""
        drawn = self.tokens_by_source(samples)
        return {size.name: drawn[size.name] / size.tokens for size in self.describe()}

    def describe(self) -> list[SourceSize]:
        """Describe the mixture, source by source.

        Of a source that is cut from documents, tokens are those of an epoch, padding included: windows x samples.
        """
        coverage = self.coverage()
        sizes = []
        for source, stream in zip(self.sources, self.streams, strict=True):
            tokens, documents = stream.token_count, stream.document_count
            if (found := coverage.get(source.name)) is not None:
                tokens, documents = found.windows * found.sequence_length, found.documents
            sizes.append(SourceSize(source.name, tokens, documents, len(stream.datasets)))
        return sizes

    def coverage(self) -> dict[str, Coverage]:
        """By name, what the windows of each source that is cut from documents hold, at its longest sample."""
        if not isinstance(self.order, RunOrder):
            return {}
        longest = {name: 0 for span in self.spans for name in span.sources}
        for span in self.spans:
            longest |= {name: max(longest[name], span.sequence_length) for name in span.sources}
        return {
            source.name: source.windows.coverage(longest[source.name])
            for source in self.order.sources
            if source.windows is not None and source.name in longest
        }


def open_mixture(
    mixture: Mixture,
    *,
    sequence_length: int,
    seed: int,
    tokenizer_fingerprint: str | None,
    vocabulary_size: int,
    split: Split = "training",
    total_samples: int | None = None,
    stages: Sequence[StageSpan] | None = None,
) -> OpenMixture:
    """Open the datasets of a mixture's training or validation split.

    Args:
        tokenizer_fingerprint: `Tokenizer.fingerprint` of the model's; None where it has no tokenizer.
        total_samples: length of the run, which weights without a small common denominator need to come out exactly.
        stages: of a run that has several (`lay_out_stages`); default: one, of `sequence_length` and `total_samples`.

    Raises:
        InputError: a dataset is missing, corrupted, or tokenised with another vocabulary; a source is too small for one
            sample; nothing belongs to this split.
    """
    check_sources(mixture.sources)
    chosen = [source for source in mixture.sources if paths_of(source, split)]
    if split == "training" and len(chosen) < len(mixture.sources):
        empty = next(source for source in mixture.sources if not source.paths)
        raise InputError(f"task.mixture.sources.{empty.name}.paths is empty: name at least one dataset")
    if not chosen:
        raise InputError("no source of the mixture has validation_paths: name held-out datasets, or do not validate")
    streams = open_streams(
        {source.name: paths_of(source, split) for source in chosen},
        tokenizer_fingerprint=tokenizer_fingerprint,
        vocabulary_size=vocabulary_size,
        layouts={item.name: TokenLayout(dtype=item.dtype, document_end=item.document_end) for item in chosen},
        remote=mixture.remote,
    )
    _check_documents(mixture, chosen, streams, vocabulary_size=vocabulary_size)
    spans = stages or (single_stage(chosen, sequence_length=sequence_length, samples=total_samples),)
    order = _order(mixture, streams, spans, seed=seed, split=split)
    reader = TokenReader(streams)
    return OpenMixture(mixture, chosen, streams, reader, order, spans=spans, vocabulary_size=vocabulary_size)


def _check_documents(
    mixture: Mixture, sources: Sequence[Source], streams: Sequence[TokenStream], *, vocabulary_size: int
) -> None:
    """Refuse to tell documents apart where nothing says where they begin; doubt an end that does not come."""
    asked = [name for name in ("isolate_documents", "reset_positions", "mask_document_ends") if getattr(mixture, name)]
    for source, stream in zip(sources, streams, strict=True):
        end, field = source.document_end, f"task.mixture.sources.{source.name}.document_end"
        if end is not None and end >= vocabulary_size:
            raise InputError(f"{field}={end}, but the model's vocabulary is {vocabulary_size}")
        for dataset in stream.datasets if asked else ():
            if not dataset.has_documents:
                raise InputError(
                    f"task.mixture.{asked[0]}=true: {dataset.name} does not say where documents begin. Set {field} to"
                    " the token id that ends each of them"
                )
        if asked and end is not None:
            first = stream.datasets[0]
            count = min(first.token_count, SAMPLED_TOKENS)
            if len(first.document_index(np.array([0]), np.array([count])).pointers_K) == 1:
                logger.warning("%s=%d: not among the first %d tokens of %s", field, end, count, first.name)


def _order(
    mixture: Mixture, streams: Sequence[TokenStream], spans: Sequence[StageSpan], *, seed: int, split: Split
) -> SampleOrder:
    """The order that the mixture names; held-out data has no run to continue, and is always read in the keyed one."""
    if mixture.order == "megatron" and split == "training":
        return megatron_run(streams, spans, seed=seed, split=split, document_split=mixture.document_split)
    named = {source.name: source for source in mixture.sources}
    sources = [
        SourceTokens(stream.name, stream.token_count, document_windows(named[stream.name], stream))
        for stream in streams
    ]
    planned = mixture.block_tokens if split == "training" else None  # no run continues held-out data
    return RunOrder(spans, sources, seed=seed, split=split, block_tokens=planned)


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
