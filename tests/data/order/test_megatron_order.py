"""Megatron's order end to end: every sample holds the tokens that Megatron-Core's own datasets give for its number.

`BlendedMegatronDatasetBuilder` reads .bin/.idx files that our writer wrote, and the runs of `MegatronOrder`, copied one
by one, must agree: all splits, with and without weights, one dataset and several, last epochs on both sides of the
threshold. Then what is refused, and what Megatron does there: it asserts, or looks for tokens for ever.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.blended_megatron_dataset_config import (
    convert_split_vector_to_split_matrix,
    parse_and_normalize_split,
)
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from megaphi import _C
from megaphi.data.order import megatron_order
from megaphi.data.order.megatron_order import SPLITS, MegatronOrder, document_range, samples_before_last_epoch
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.errors import InputError


class Tokenizer:
    """The interface that Megatron needs; no token of the data is its padding."""

    vocab_size, eod, unique_identifiers = 50_000, 0, "stands for a tokenizer"


@given(
    documents=st.integers(0, 10_000) | st.integers(0, 2**40),
    parts=st.lists(st.decimals(0, 1000, places=2).map(str), min_size=1, max_size=3),
)
def test_splits_are_the_same_ranges_of_documents(documents, parts):
    text = ", ".join(parts)
    if not any(map(float, parts)):
        with pytest.raises(InputError, match="no part above zero"):
            document_range(documents, text, "training")
        return
    matrix = convert_split_vector_to_split_matrix(parse_and_normalize_split(text))
    for split, bookends in zip(SPLITS, matrix, strict=True):
        if bookends is None:
            with pytest.raises(InputError, match=f"leaves nothing for {split}"):
                document_range(documents, text, split)
        else:
            begin, end = (round(bookend * float(documents)) for bookend in bookends)
            assert document_range(documents, text, split) == range(begin, end)


def write_corpus(folder: Path, draw: np.random.Generator, *, datasets: int, documents: int, longest: int):
    """Datasets of random documents, some empty, with ids that no two places share if the corpus is small."""
    written = []
    for number in range(datasets):
        with IndexedDatasetWriter(folder / f"dataset_{number}", "uint16") as writer:
            for length in draw.integers(0, longest, documents + number):
                writer.add_document(draw.integers(1, 50_000, length))
            writer.add_document(draw.integers(1, 50_000, longest))
            writer.finish({})
        written.append(IndexedDataset(folder / f"dataset_{number}"))
    return written


def megatron_dataset(datasets, weights, *, sequence_length, seed, samples, split, document_split, surplus=0.005):
    """The dataset of one split, built by Megatron, which would look for ever for tokens in an empty other one."""
    place = SPLITS.index(split)
    blend = ([str(dataset.prefix) for dataset in datasets], weights)
    where: dict = {"blend": blend, "split": document_split}
    if document_split is None:
        where = {"blend_per_split": [blend if number == place else None for number in range(3)]}
    config = GPTDatasetConfig(
        random_seed=seed,
        sequence_length=sequence_length,
        tokenizer=Tokenizer(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        mid_level_dataset_surplus=surplus,
        **where,
    )
    if document_split is not None:
        config.split_matrix = [
            bookends if number == place else None for number, bookends in enumerate(config.split_matrix)
        ]
    return BlendedMegatronDatasetBuilder(GPTDataset, [samples] * 3, lambda: True, config).build()[place]


def ours_of(datasets, weights, **settings) -> MegatronOrder:
    names = [f"source {number}" for number in range(len(datasets))]
    return MegatronOrder(names, weights, [[dataset] for dataset in datasets], **settings)


def rows_of(order: MegatronOrder, datasets, numbers) -> list[np.ndarray]:
    """S + 1 tokens of every sample, each run copied by itself."""
    pieces: list[list[np.ndarray]] = [[] for _ in numbers]
    for row, dataset, start, count in zip(*(column.tolist() for column in order.runs(numbers)), strict=True):
        assert count > 0
        pieces[row].append(datasets[dataset].tokens(start, count))
    return [np.concatenate(row) for row in pieces]


def assert_same_samples(theirs, order, datasets) -> None:
    numbers = np.random.default_rng(0).permutation(len(theirs))
    assert order.samples == len(theirs)
    for number, row in zip(numbers.tolist(), rows_of(order, datasets, numbers), strict=True):
        sample = theirs[number]
        assert np.array_equal(sample["tokens"].numpy(), row[:-1]), number
        assert np.array_equal(sample["labels"].numpy(), row[1:]), number


@given(
    shape=st.fixed_dictionaries(
        {"datasets": st.integers(1, 5), "documents": st.integers(1, 40), "longest": st.sampled_from([3, 20, 70])}
    ),
    corpus_seed=st.integers(0, 2**31),
    sequence_length=st.integers(1, 48),
    seed=st.integers(0, 2**32 - 1),
    samples=st.integers(1, 250) | st.none(),
    is_weighted=st.booleans(),
    split=st.sampled_from(SPLITS),
    document_split=st.sampled_from([None, "969, 30, 1", "1,1,1", "90.5,9.5,0", "2,1"]),
)
@settings(max_examples=80, deadline=None)
def test_every_sample_is_megatrons(
    tmp_path_factory, shape, corpus_seed, sequence_length, seed, samples, is_weighted, split, document_split
):
    draw = np.random.default_rng(corpus_seed)
    datasets = write_corpus(tmp_path_factory.mktemp("corpus"), draw, **shape)
    weights = draw.uniform(0.05, 1, len(datasets)).tolist() if is_weighted and samples else None
    wanted = {"sequence_length": sequence_length, "seed": seed, "samples": samples, "split": split}
    wanted |= {"document_split": document_split, "surplus": 0.5}  # very short runs need more than the usual margin
    try:
        order = ours_of(datasets, weights, **wanted)
    except InputError as error:  # where Megatron loops for ever, asserts, has no split, or ends early
        reason = str(error)
        assume(not any(words in reason for words in ("too few", "leaves nothing", "ends after one epoch")))
        raise
    theirs = megatron_dataset(datasets, weights, **wanted)
    assert_same_samples(theirs, order, datasets)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(
        tmp_path_factory.mktemp("corpus"), np.random.default_rng(8), datasets=4, documents=30, longest=60
    )


WANTED = {"sequence_length": 16, "seed": 1234, "samples": 500, "split": "training", "document_split": None}


@pytest.mark.parametrize("epochs", [2, 3, 6])
@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_the_last_epoch_is_apart_below_four_fifths_of_it(corpus, epochs, beyond):
    dataset, length = corpus[0], 16
    per_epoch = (dataset.token_count - 1) // length
    before = ((epochs - 1) * dataset.token_count - 1) // length
    samples = before + int(0.8 * per_epoch) + beyond
    apart = samples_before_last_epoch(samples, epochs=epochs, tokens=dataset.token_count, sequence_length=length)
    assert apart == (before if beyond < 0 else 0)
    wanted = WANTED | {"samples": samples}
    order = ours_of([dataset], None, **wanted)
    assert len(order.orders[0].document_D) == epochs * len(dataset)
    assert_same_samples(megatron_dataset([dataset], None, **wanted), order, [dataset])


def test_documents_of_several_sequences_are_shuffled_sequence_by_sequence(tmp_path):
    draw = np.random.default_rng(4)
    builder = IndexedDatasetBuilder(f"{tmp_path}/many.bin", dtype=np.int32)
    for _ in range(12):
        lengths = draw.integers(1, 9, draw.integers(1, 5)).tolist()
        builder.add_document(draw.integers(1, 50_000, sum(lengths)), lengths)
    builder.finalize(f"{tmp_path}/many.idx")
    datasets = [IndexedDataset(tmp_path / "many")]
    assert len(datasets[0]) < len(datasets[0].sequence_lengths)
    assert_same_samples(megatron_dataset(datasets, None, **WANTED), ours_of(datasets, None, **WANTED), datasets)


def test_wide_arrays_hold_the_same_order(corpus, monkeypatch):
    narrow = ours_of(corpus, [1, 2, 3, 4], **WANTED)
    monkeypatch.setattr(megatron_order, "fitting", lambda largest, narrow: np.int64)
    wide = ours_of(corpus, [1, 2, 3, 4], **WANTED)
    entries, starts = (sum(getattr(order, name).size for order in wide.orders) for name in ("document_D", "start_M2"))
    assert wide.nbytes == 8 * entries + 8 * starts + 10 * wide.samples
    assert narrow.nbytes == 4 * entries + 4 * starts + 6 * narrow.samples
    numbers = np.arange(narrow.samples)
    for one, other in zip(narrow.runs(numbers), wide.runs(numbers), strict=True):
        assert one.dtype == other.dtype == np.int64
        assert np.array_equal(one, other)


def test_equal_claims_are_settled_by_the_last_bit_of_a_share(corpus):
    """With these weights, shares divided by their sum only once, or by a sum added up in another order, differ."""
    weights = [0.1, 0.3, 0.2, 0.6, 0.6, 0.5, 0.7, 0.7, 0.2, 0.1, 0.1, 0.6]
    datasets = corpus * 3
    for shares in (np.array(weights) / np.sum(weights), np.array(weights) / sum(weights)):
        other = np.empty(500, dtype=np.int16)
        _C.megatron_blend(shares.tolist(), other, np.empty(500, dtype=np.uint32))
        assert not np.array_equal(other, megatron_dataset(datasets, weights, **WANTED).dataset_index[:500])
    assert_same_samples(megatron_dataset(datasets, weights, **WANTED), ours_of(datasets, weights, **WANTED), datasets)


def test_counts_and_shapes(corpus, monkeypatch):
    order = ours_of(corpus, [1, 2, 3, 4], **WANTED)
    theirs = megatron_dataset(corpus, [1, 2, 3, 4], **WANTED)
    monkeypatch.setattr(megatron_order, "COUNTED_AT_ONCE", 64)
    for samples in (0, 1, 63, 64, 65, 500):
        expected = np.bincount(theirs.dataset_index[:samples], minlength=4)
        assert list(order.counts(samples).values()) == expected.tolist()
    assert list(order.counts(0)) == list(order.names)
    assert ours_of(corpus[:1], None, **WANTED).counts(7) == {"source 0": 7}
    runs = order.runs([3, 3, 1])
    assert np.array_equal(np.bincount(runs.row_N, weights=runs.count_N), [17, 17, 17])
    assert (np.diff(runs.row_N) >= 0).all()
    assert all(column.shape == (0,) and column.dtype == np.int64 for column in order.runs([]))
    assert all(column.shape == (0,) for column in ours_of(corpus[:1], None, **WANTED).runs([]))


def test_a_blend_beyond_the_surplus_is_refused_as_in_megatron(corpus):
    """Shares of 11 samples, rounded up, are 8 + 2 + 2 + 2 = 14; seven tenths of 14 are more than 8."""
    weights, wanted = [0.7, 0.1, 0.1, 0.1], WANTED | {"samples": 11, "surplus": 0.0}
    wanted["sequence_length"] = corpus[0].token_count
    with pytest.raises(IndexError, match="mid_level_dataset_surplus"):
        megatron_dataset(corpus, weights, **wanted)
    with pytest.raises(InputError, match="mid-level-dataset-surplus"):
        ours_of(corpus, weights, **wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": [1, 0, 1, 1]}, "must be positive"),
        ({"weights": [1, float("nan"), 1, 1]}, "must be positive"),
        ({"samples": None}, "needs the number of samples"),
        ({"samples": 0}, "at least one sample"),
        ({"seed": 2**32}, "RandomState"),
        ({"sequence_length": 0}, "not a positive number"),
        ({"weights": None, "samples": 10**9}, "ends after one epoch"),
        ({"document_split": "969;30;1"}, "three numbers with commas"),
        ({"document_split": "1,1,1,1"}, "three numbers with commas"),
        ({"document_split": "0,0"}, "no part above zero"),
        ({"document_split": "1,0,0", "split": "test"}, "leaves nothing for test"),
        ({"document_split": "1000,1", "split": "validation"}, r"too few .* document_split"),
    ],
)
def test_refuses_what_megatron_cannot_have_run(corpus, changes, message):
    wanted = {"weights": [1, 2, 3, 4]} | WANTED | changes
    with pytest.raises(InputError, match=message):
        ours_of(corpus, wanted.pop("weights"), **wanted)


def test_refuses_several_datasets_of_a_source_and_samples_that_are_not_there(corpus):
    with pytest.raises(InputError, match=r"'web' has 2 datasets.*make every dataset a source"):
        MegatronOrder(["web"], [1.0], [corpus[:2]], **WANTED)
    order = ours_of(corpus[:1], None, **WANTED)
    for number in (-1, order.samples):
        with pytest.raises(IndexError, match=f"of {order.samples}"):
            order.runs([0, number])
    with pytest.raises(ValueError, match="the first"):
        order.counts(order.samples + 1)


def test_a_long_build_says_how_long_and_how_large(corpus, monkeypatch, caplog):
    clock = iter([0.0, 2.5])
    monkeypatch.setattr(megatron_order.time, "perf_counter", lambda: next(clock))
    with caplog.at_level("INFO", logger="megaphi"):
        ours_of(corpus, [1, 2, 3, 4], **WANTED)
    assert "500 samples, 4 dataset(s): built in 2.5 s, 0.000 GB" in caplog.text
