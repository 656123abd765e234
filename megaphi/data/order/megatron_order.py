"""Megatron's order: sample n of a run started with Megatron-LM, so that the run can continue here where it stopped
there.

What `GPTDataset` and `BlendedDataset` of Megatron-Core 0.16 visit, in their steps: a split is a range of documents;
as many epochs as the run needs are shuffled together, the last one apart if less than four fifths of it are used;
samples of S + 1 tokens are cut from the documents end to end; the samples are shuffled; and a greedy blend deals sample
numbers out to the datasets. The surprising fact: all of it depends on the length of the run, so `samples` must be the
number that Megatron was started with. A document here is what Megatron shuffles: a sequence of the .idx.

Everything lives in memory, in every process that reads: 4 bytes per document and epoch, 8 per sample of a dataset and 6
per sample of the blend (8, 16 and 10 from 2^31 documents, 2^32 documents times epochs and 2^32 samples on). Shape
legend: B batch, N runs, D documents times epochs, M samples.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.compiled.module import compiled
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.storage.formats.token_dataset import TokenDataset
from megaphi.data.storage.reader import Runs
from megaphi.errors import InputError
from megaphi.log import logger

MegatronSplit = Literal["training", "validation", "test"]
SPLITS: tuple[MegatronSplit, ...] = ("training", "validation", "test")

SURPLUS = 0.005
"""Megatron's `mid_level_dataset_surplus`: a blended dataset is made this much longer than its share of the run."""
LAST_EPOCH_APART_BELOW = 0.80
MOST_DATASETS = 32_766
COUNTED_AT_ONCE = 1 << 22


class MegatronOrder:
    """Sample number -> the tokens that Megatron's training, validation or test dataset holds under that number.

    Megatron's `single` dataloader and `batch_sample_numbers` deal the numbers of a step out in the same way.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Sequence[float] | None,
        datasets: Sequence[Sequence[TokenDataset]],
        *,
        sequence_length: int,
        seed: int,
        samples: int | None,
        split: MegatronSplit = "training",
        document_split: str | None = None,
        surplus: float = SURPLUS,
    ) -> None:
        """Build the order; what takes longer than a second is logged with its time and memory.

        Args:
            names: of the sources.
            weights: of the sources, as on Megatron's command line; None where none were given there: then every dataset
                is read for one epoch at most, in proportion to its size.
            datasets: of each source, which must be one: in Megatron every dataset has a weight of its own.
            seed: Megatron's --seed.
            samples: length of the split in samples, for training --train-iters times --global-batch-size; None, without
                weights only, is one epoch of everything.
            document_split: Megatron's --split ("969, 30, 1") if all splits share their datasets (--data-path); None if
                each has its own (--train-data-path, ...). Only with it is a single weighted dataset a blend of one.
            surplus: Megatron's --mid-level-dataset-surplus.

        Raises:
            InputError: a source has several datasets, a split has no documents or too few tokens, a number is out of
                range, or the blend asks for more than a dataset's surplus.
        """
        began = time.perf_counter()
        self.names = tuple(names)
        self.sequence_length = sequence_length
        check_numbers(sequence_length=sequence_length, seed=seed, samples=samples, weights=weights)
        single = [one_dataset(name, group) for name, group in zip(self.names, datasets, strict=True)]
        if not 1 <= len(single) <= MOST_DATASETS:
            raise InputError(f"Megatron's order blends 1 .. {MOST_DATASETS:,} datasets, not {len(single):,}")
        shares = None if weights is None else normalised(weights)
        is_blend = len(single) > 1 or (shares is not None and document_split is not None)
        self.orders = [
            order_dataset(
                dataset,
                name=name,
                documents=document_range(len(dataset.sequence_lengths), document_split, split),
                sequence_length=sequence_length,
                seed=seed,
                samples=samples_of_dataset(samples, share, surplus) if is_blend else samples,
            )
            for name, dataset, share in zip(self.names, single, shares or [None] * len(single), strict=True)
        ]
        self._blend = build_blend(self.names, self.orders, shares, samples) if is_blend else None
        self.samples = len(self._blend.dataset_M) if self._blend else len(self.orders[0])
        """Number of samples: at least those of the run."""
        self._report(time.perf_counter() - began)

    def runs(self, sample_numbers: ArrayLike) -> Runs:
        """Locate the S + 1 tokens of each of these samples (one dimension, any order, repeats allowed)."""
        numbers_B = np.asarray(sample_numbers, dtype=np.int64)
        if numbers_B.size and (numbers_B.min() < 0 or numbers_B.max() >= self.samples):
            raise IndexError(f"samples {numbers_B.min()} .. {numbers_B.max()} of {self.samples}")
        if self._blend is None:
            return self._runs_of_dataset(0, np.arange(len(numbers_B)), numbers_B)
        dataset_B, rank_B = self._blend.dataset_M[numbers_B], self._blend.rank_M[numbers_B].astype(np.int64)
        parts = []
        for dataset in np.unique(dataset_B).tolist() or [0]:
            (row_R,) = np.nonzero(dataset_B == dataset)
            parts.append(self._runs_of_dataset(dataset, row_R, rank_B[row_R]))
        joined = Runs(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        order_N = np.argsort(joined.row_N, kind="stable")
        return Runs(*(column[order_N] for column in joined))

    def _runs_of_dataset(self, dataset: int, row_R: NDArray[np.int64], number_R: NDArray[np.int64]) -> Runs:
        """Runs of the rows `row_R` of a batch, which are the samples `number_R` of one dataset."""
        place_N, start_N, count_N = self.orders[dataset].runs(number_R, tokens=self.sequence_length + 1)
        return Runs(row_R[place_N], np.full_like(place_N, dataset), start_N, count_N)

    def counts(self, samples: int) -> dict[str, int]:
        """Samples taken from each source by the first `samples` of the run."""
        if not 0 <= samples <= self.samples:
            raise ValueError(f"the first {samples} of {self.samples} samples")
        if self._blend is None:
            return {self.names[0]: samples}
        counts = np.zeros(len(self.names), dtype=np.int64)
        for first in range(0, samples, COUNTED_AT_ONCE):  # bincount widens 2 bytes to 8
            stretch = self._blend.dataset_M[first : min(first + COUNTED_AT_ONCE, samples)]
            counts += np.bincount(stretch, minlength=len(self.names))
        return dict(zip(self.names, counts.tolist(), strict=True))

    @property
    def nbytes(self) -> int:
        """Memory that the order takes."""
        blend = self._blend.dataset_M.nbytes + self._blend.rank_M.nbytes if self._blend else 0
        return blend + sum(order.document_D.nbytes + order.start_M2.nbytes for order in self.orders)

    def _report(self, seconds: float) -> None:
        if seconds > 1:
            what = f"{self.samples:,} samples, {len(self.orders)} dataset(s)"
            logger.info("Megatron's order of %s: built in %.1f s, %.3f GB", what, seconds, self.nbytes / 1e9)


@dataclass(frozen=True)
class DatasetOrder:
    """The samples of one dataset, shuffled."""

    dataset: IndexedDataset
    document_D: NDArray[np.integer[Any]]
    """Documents (sequences of the .idx) of all epochs, in shuffled order."""
    start_M2: NDArray[np.integer[Any]]
    """Start of every sample, in the order of their numbers: the entry of `document_D`, and the token within it."""

    def __len__(self) -> int:
        return len(self.start_M2)

    def runs(
        self, number_R: NDArray[np.int64], *, tokens: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(which of `number_R`, first token in the .bin, tokens) of every run of these samples."""
        lengths, pointers = self.dataset.sequence_lengths, self.dataset.sequence_pointers
        start_R2 = self.start_M2[number_R].astype(np.int64)
        return compiled().megatron_runs(
            lengths, pointers, self.dataset.dtype.itemsize, self.document_D, start_R2, tokens
        )


def order_dataset(
    dataset: IndexedDataset, *, name: str, documents: range, sequence_length: int, seed: int, samples: int | None
) -> DatasetOrder:
    """The order of a range of documents, for at least `samples` samples, or one epoch: Megatron's `GPTDataset`."""
    dataset.files.index.will_be_read_through()
    lengths = dataset.sequence_lengths
    tokens = int(lengths[documents.start : documents.stop].sum(dtype=np.int64))
    epochs = 1 if samples is None or tokens == 0 else -(-(samples * sequence_length + 1) // tokens)
    count = (epochs * tokens - 1) // sequence_length
    if count < 1:
        raise InputError(
            f"source {name!r}: the {len(documents):,} documents of this split have {tokens:,} tokens, too few for one"
            f" sample of sequence length {sequence_length:,}: add data, or give this split more of document_split"
        )
    ids = np.arange(documents.start, documents.stop, dtype=fitting(documents.stop, np.int32))
    document_D = np.tile(ids, epochs)
    start_M2 = np.empty((count, 2), dtype=fitting(len(document_D), np.uint32))
    first_samples = samples_before_last_epoch(samples, epochs=epochs, tokens=tokens, sequence_length=sequence_length)
    shuffle, cut = compiled().NumpyShuffle(seed), len(documents) * (epochs - 1) if first_samples else 0
    shuffle(document_D[:cut])
    shuffle(document_D[cut:])
    compiled().megatron_sample_starts(lengths, document_D, sequence_length=sequence_length, out=start_M2)
    shuffle(start_M2[:first_samples])
    shuffle(start_M2[first_samples:])
    return DatasetOrder(dataset, document_D, start_M2)


def samples_before_last_epoch(samples: int | None, *, epochs: int, tokens: int, sequence_length: int) -> int:
    """Samples that end before the last epoch, if that is shuffled apart because too few of its own are used; else 0.

    A separate epoch has at least two samples, so the ones before it have some, and 0 is unambiguous.
    """
    if samples is None or epochs == 1:
        return 0
    before = ((epochs - 1) * tokens - 1) // sequence_length
    per_epoch = (tokens - 1) // sequence_length
    return before if samples - before < int(LAST_EPOCH_APART_BELOW * per_epoch) else 0


class MegatronBlend(NamedTuple):
    """Dataset of every sample, and the number of earlier samples from it."""

    dataset_M: NDArray[np.int16]
    rank_M: NDArray[np.integer[Any]]


def build_blend(
    names: Sequence[str], orders: Sequence[DatasetOrder], shares: list[float] | None, samples: int | None
) -> MegatronBlend:
    """Megatron's `BlendedDataset`: greedy by the given shares or, without, by the sizes of the datasets."""
    sizes = [len(order) for order in orders]
    if samples is None:
        blend = _empty_blend(sum(sizes))
        compiled().megatron_blend_all(sizes, *blend)
        return blend
    if shares is None and samples > sum(sizes):
        raise InputError(
            f"the run takes {samples:,} samples, but without weights Megatron's order ends after one epoch,"
            f" {sum(sizes):,} samples: give the sources weights, or shorten the run"
        )
    blend = _empty_blend(samples if shares is None else sum(math.ceil(samples * share) for share in shares))
    # A second time, as Megatron does: the shares of the first may sum to one less a rounding error.
    taken = compiled().megatron_blend(normalised(sizes if shares is None else shares), *blend)
    for name, count, size in zip(names, taken, sizes, strict=True):
        if count > size:
            raise InputError(
                f"the blend takes {count:,} samples of source {name!r}, which was prepared for {size:,}: raise the"
                " surplus (Megatron's --mid-level-dataset-surplus), which Megatron needs for these weights, too"
            )
    return blend


def _empty_blend(samples: int) -> MegatronBlend:
    return MegatronBlend(np.empty(samples, dtype=np.int16), np.empty(samples, dtype=fitting(samples, np.uint32)))


def samples_of_dataset(samples: int | None, share: float | None, surplus: float) -> int | None:
    """Samples that a dataset of a blend is prepared for: its share, rounded up, with the surplus, rounded up."""
    return None if samples is None or share is None else math.ceil(math.ceil(samples * share) * (1 + surplus))


def normalised(weights: Sequence[float]) -> list[float]:
    """Weights divided by their sum, which NumPy adds up in pairs: another order of adding gives other last bits."""
    weights_K = np.array(weights, dtype=np.float64)
    return (weights_K / np.sum(weights_K)).tolist()


def document_range(documents: int, document_split: str | None, split: MegatronSplit) -> range:
    """The documents that belong to a split of a dataset, by Megatron's `--split`."""
    if document_split is None:
        return range(documents)
    parts = document_split.split(",")
    if len(parts) > len(SPLITS) or not all(re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*", part) for part in parts):
        raise InputError(f"document_split={document_split!r}: up to three numbers with commas, such as 969,30,1")
    weights = [float(part) for part in parts] + [0.0] * (len(SPLITS) - len(parts))
    if sum(weights) <= 0:
        raise InputError(f"document_split={document_split!r} has no part above zero")
    bounds = list(accumulate(normalised(weights), initial=0))
    place = SPLITS.index(split)
    if bounds[place + 1] <= bounds[place]:
        raise InputError(f"document_split={document_split!r} leaves nothing for {split}: give it a part above zero")
    return range(round(bounds[place] * float(documents)), round(bounds[place + 1] * float(documents)))


def one_dataset(name: str, datasets: Sequence[TokenDataset]) -> IndexedDataset:
    if len(datasets) != 1:
        raise InputError(
            f"source {name!r} has {len(datasets)} datasets, but in Megatron's order each has a weight of its own: make"
            " every dataset a source, with the weight it had on Megatron's command line, in the same order"
        )
    if not isinstance(datasets[0], IndexedDataset):
        raise InputError(
            f"source {name!r}: task.mixture.order=megatron shuffles the documents that an index lists, and"
            f" {datasets[0].name} has none. Megatron reads .bin/.idx pairs only; use task.mixture.order=keyed"
        )
    return datasets[0]


def check_numbers(*, sequence_length: int, seed: int, samples: int | None, weights: Sequence[float] | None) -> None:
    """Refuse settings that Megatron cannot have been started with."""
    if not 1 <= sequence_length < 1 << 31:
        raise InputError(f"sequence length {sequence_length} is not a positive number of tokens below 2^31")
    if not 0 <= seed < 1 << 32:
        raise InputError(f"seed={seed}: Megatron's order takes 0 .. 2^32 - 1, the seeds of NumPy's RandomState")
    if samples is not None and samples < 1:
        raise InputError(f"Megatron's order is for at least one sample, not {samples}")
    if samples is None and weights is not None:
        raise InputError("Megatron's order with weights needs the number of samples that the run was started with")
    if weights is not None and not (all(weight > 0 for weight in weights) and math.isfinite(sum(weights))):
        raise InputError(f"weights {list(weights)}: all must be positive numbers")


def fitting(largest: int, narrow: type[np.integer[Any]]) -> type[np.integer[Any]]:
    """The narrow dtype where `largest` fits into it, else int64."""
    return narrow if largest <= np.iinfo(narrow).max else np.int64
