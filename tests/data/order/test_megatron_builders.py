"""The compiled builders of Megatron's order, element by element against Megatron-Core's own.

Shuffles against NumPy's RandomState; sample starts and both blends against `helpers_cpp` on random corpora with empty
and long documents, several epochs, up to 50 datasets, in every dtype that they can be stored in. Beyond 32 bits, where
Megatron's arrays would not fit into memory, documents of 2^31 - 1 tokens and maps of zeros stand for them.
"""

from __future__ import annotations

import itertools
import mmap
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.datasets import helpers, helpers_cpp

from megaphi import _C
from megaphi.data.order import megatron_order
from tests.test_house import ROOT

LENGTHS = st.lists(st.integers(0, 40) | st.just(0) | st.integers(100, 300), min_size=1, max_size=60).filter(any)
DOCUMENT_DTYPES, PLACE_DTYPES = (np.int32, np.int64), (np.uint32, np.int64)


def unaligned(values, dtype):
    """As the arrays of an .idx are: at an address that is even, and no more."""
    packed = np.asarray(values, dtype=dtype)
    return np.frombuffer(b"\0\0" + packed.tobytes(), dtype=dtype, offset=2)


def sample_starts(lengths, documents, sequence_length, count, *, place_dtype):
    out = np.full((count, 2), 77, dtype=place_dtype)
    _C.megatron_sample_starts(lengths, documents, sequence_length=sequence_length, out=out)
    return out


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(0, 700) | st.sampled_from([127, 128, 129, 130, 256, 257]), min_size=1, max_size=4),
    row=st.sampled_from([(np.int32, ()), (np.uint32, (2,)), (np.int64, ()), (np.int64, (2,))]),
)
@settings(max_examples=60, deadline=None)
def test_shuffles_one_after_the_other_are_those_of_random_state(seed, sizes, row):
    dtype, shape = row
    theirs, ours = np.random.RandomState(seed), _C.NumpyShuffle(seed)
    for size in sizes:
        rows = np.arange(size * int(np.prod(shape)), dtype=dtype).reshape(size, *shape)
        expected = rows.copy()
        theirs.shuffle(expected)
        ours(rows)
        assert np.array_equal(rows, expected)


@given(
    lengths=LENGTHS,
    sequence_length=st.integers(1, 90),
    epochs=st.integers(1, 5),
    seed=st.integers(0, 9),
    dtypes=st.sampled_from(list(itertools.product(DOCUMENT_DTYPES, PLACE_DTYPES))),
)
@settings(max_examples=250, deadline=None)
def test_samples_start_where_megatron_starts_them(lengths, sequence_length, epochs, seed, dtypes):
    document_dtype, place_dtype = dtypes
    lengths_D = np.array(lengths, dtype=np.int32)
    documents = np.tile(np.arange(len(lengths), dtype=np.int32), epochs)
    np.random.RandomState(seed).shuffle(documents)
    expected = helpers.build_sample_idx(lengths_D, documents, sequence_length, epochs, int(lengths_D.sum()))
    ours = sample_starts(
        unaligned(lengths, "<i4"),
        documents.astype(document_dtype),
        sequence_length,
        len(expected),
        place_dtype=place_dtype,
    )
    assert np.array_equal(ours, expected)


@pytest.mark.parametrize(("document_dtype", "place_dtype"), itertools.product(DOCUMENT_DTYPES, PLACE_DTYPES))
@pytest.mark.parametrize("sequence_length", [2**31 - 2, 2**31 - 1, 2**30 + 1, 12_345_678])
def test_streams_of_more_than_32_bits(sequence_length, document_dtype, place_dtype):
    """3,000 documents of up to 2^31 - 1 tokens: 2^42 tokens, each boundary in Python's integers."""
    lengths = np.random.default_rng(1).integers(2**31 - 9, 2**31 - 1, 3_000, endpoint=True)
    documents = np.random.RandomState(2).permutation(3_000).astype(document_dtype)
    ends = list(itertools.accumulate(lengths[documents].tolist()))
    count = min((ends[-1] - 1) // sequence_length, 400_000)
    ours = sample_starts(unaligned(lengths, "<i4"), documents, sequence_length, count, place_dtype=place_dtype)
    wanted = np.arange(count) * sequence_length
    entry = np.searchsorted(ends, wanted, side="right")
    offset = wanted - (np.array(ends) - lengths[documents])[entry]
    assert np.array_equal(ours, np.stack([entry, offset], axis=1))


@given(
    weights=st.lists(st.floats(1e-4, 1.0) | st.sampled_from([0.1, 1.0]), min_size=1, max_size=50),
    samples=st.integers(0, 3_000),
    rank_dtype=st.sampled_from(PLACE_DTYPES),
)
@settings(max_examples=100, deadline=None)
def test_the_greedy_blend_is_megatrons(weights, samples, rank_dtype):
    shares = megatron_order.normalised(weights)
    expected, ours = (
        (np.full(samples, -1, dtype=np.int16), np.full(samples, 77, dtype=dtype)) for dtype in (np.int64, rank_dtype)
    )
    helpers_cpp.build_blending_indices(*expected, shares, len(shares), samples, False)
    counts = _C.megatron_blend(shares, *ours)
    assert np.array_equal(ours[0], expected[0])
    assert np.array_equal(ours[1], expected[1])
    assert counts == np.bincount(expected[0], minlength=len(shares)).tolist()


@given(
    sizes=st.lists(st.integers(1, 5) | st.integers(1, 400), min_size=1, max_size=50),
    rank_dtype=st.sampled_from(PLACE_DTYPES),
)
@settings(max_examples=100, deadline=None)
def test_the_exhaustive_blend_is_megatrons(sizes, rank_dtype):
    expected, ours = (
        (np.full(sum(sizes), -1, dtype=np.int16), np.full(sum(sizes), 77, dtype=dtype))
        for dtype in (np.int64, rank_dtype)
    )
    helpers_cpp.build_exhaustive_blending_indices(*expected, sizes, len(sizes))
    _C.megatron_blend_all(sizes, *ours)
    assert np.array_equal(ours[0], expected[0])
    assert np.array_equal(ours[1], expected[1])


def test_the_builders_refuse_what_would_read_or_write_outside():
    lengths, documents = np.array([4, 4], dtype=np.int32), np.array([0, 1], dtype=np.int32)
    with pytest.raises(IndexError, match="end before the samples do"):
        sample_starts(lengths, documents, 3, 4, place_dtype=np.uint32)
    for wrong in (-1, 2):
        with pytest.raises(IndexError, match="not indexed"):
            sample_starts(lengths, np.array([wrong], dtype=np.int32), 3, 2, place_dtype=np.uint32)
    with pytest.raises(TypeError):
        sample_starts(lengths.astype(np.int64), documents, 3, 2, place_dtype=np.uint32)
    with pytest.raises(ValueError, match="sum to the number of samples"):
        _C.megatron_blend_all([2, 0], np.empty(2, dtype=np.int16), np.empty(2, dtype=np.uint32))
    with pytest.raises(ValueError, match="same size"):
        _C.megatron_blend([1.0], np.empty(2, dtype=np.int16), np.empty(3, dtype=np.uint32))
    with pytest.raises(ValueError, match=r"32,766 datasets"):
        _C.megatron_blend([1e-5] * 32_767, np.empty(2, dtype=np.int16), np.empty(2, dtype=np.uint32))
    with pytest.raises(IndexError, match="before the sample does"):
        _C.megatron_runs(lengths, np.array([0, 8]), 2, documents, np.array([[1, 2]]), 3)
    with pytest.raises(ValueError, match="4, 8 or 16 bytes"):
        _C.NumpyShuffle(0)(np.zeros(4, dtype=np.int16))


def test_dtypes_widen_where_numbers_no_longer_fit():
    assert megatron_order.fitting(2**31 - 1, np.int32) is np.int32
    assert megatron_order.fitting(2**31, np.int32) is np.int64
    assert megatron_order.fitting(2**32 - 1, np.uint32) is np.uint32
    assert megatron_order.fitting(2**32, np.uint32) is np.int64


@pytest.mark.slow
def test_more_documents_than_32_bits_can_count():
    """2^32 + 1,000 documents of one token, which are no more than one page of zeros, mapped over and over."""
    entries, sequence_length, map_noreserve = 2**32 + 1_000, 2**20, 0x4000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | map_noreserve
    documents = np.frombuffer(mmap.mmap(-1, 4 * entries, flags=flags, prot=mmap.PROT_READ), dtype=np.int32)
    lengths, count = np.array([1], dtype=np.int32), (entries - 1) // sequence_length + 1
    starts = sample_starts(lengths, documents, sequence_length, count, place_dtype=np.int64)
    assert np.array_equal(starts[:, 0], np.arange(count) * sequence_length)
    assert starts[-1].tolist() == [2**32, 0]
    with pytest.raises(ValueError, match="more documents than the dtype"):
        sample_starts(lengths, documents, sequence_length, count, place_dtype=np.uint32)
    row_N, _, count_N = _C.megatron_runs(lengths, np.array([0]), 2, documents, starts[-1:], 5)
    assert row_N.tolist() == [0] * 5
    assert count_N.tolist() == [1] * 5


DRAW = """
#include <cstdio>
#include <cstdlib>
#include "megatron_order.h"
int main(int, char** highest) {
  while (*++highest) {
    megaphi::megatron_order::NumpyShuffle shuffle(1234);
    for (int i = 0; i < 6; i++) std::printf("%lld ", static_cast<long long>(shuffle.up_to(std::atoll(*highest))));
  }
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_draws_beyond_32_bits_are_numpys(tmp_path):
    """Places in an array of more than 2^32 items, without the array."""
    bounds = [2**32 - 2, 2**32 - 1, 2**32, 2**40 + 12_345, 2**62 + 7]
    (tmp_path / "draw.cpp").write_text(DRAW)
    command = ["c++", "-std=c++17", f"-I{ROOT / 'csrc/index'}", "draw.cpp", "-o", "draw"]
    subprocess.run(command, cwd=tmp_path, check=True)
    drawn = subprocess.run([tmp_path / "draw", *map(str, bounds)], check=True, capture_output=True, text=True).stdout
    expected = []
    for bound in bounds:
        numpys = np.random.RandomState(1234)
        expected += [int(numpys.randint(0, bound + 1, dtype=np.uint64)) for _ in range(6)]
    assert list(map(int, drawn.split())) == expected
