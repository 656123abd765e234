"""Reading windows against plain lists and NumPy memory maps: dtypes, seams, the ring, documents, only what is asked.

The lists are what was written; the maps read the same files with code that is not ours.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi import _C
from megaphi.data.loading.loader import batch_sample_numbers, open_mixture
from megaphi.data.order.mixture import Mixture, Source
from megaphi.data.storage.formats.indexed_dataset import DTYPE_OF_CODE, IndexedDataset
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.data.storage.reader import Runs, TokenReader
from megaphi.data.storage.streams import TokenStream

DTYPES = [dtype.str for dtype in DTYPE_OF_CODE.values()]
DOCUMENTS = st.lists(st.lists(st.integers(0, 127), max_size=7), max_size=6)
DATASET = st.tuples(DOCUMENTS, st.sampled_from(DTYPES))
SOURCES = st.lists(st.lists(DATASET, min_size=1, max_size=4), min_size=1, max_size=3)


def write(prefix, documents, dtype="uint16", description=None):
    with IndexedDatasetWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add_document(np.array(document, dtype=np.int64))
        writer.finish(description or {"tokenizer": "ours"})
    return IndexedDataset(prefix)


def ring_of(folder, number, parts):
    """A stream of datasets, and its tokens and the (dataset, document) of each, as lists."""
    datasets, tokens, owners = [], [], []
    for part, (documents, dtype) in enumerate(parts):
        datasets.append(write(folder / f"{number}_{part}", documents, dtype))
        for document, content in enumerate(documents):
            tokens += content
            owners += [(part, document)] * len(content)
    return TokenStream(tuple(datasets), f"source {number}"), tokens, owners


@given(sources=SOURCES, count=st.integers(1, 30), draw=st.data())
@settings(max_examples=60, deadline=None)
def test_windows_tokens_and_documents_are_those_of_plain_lists(tmp_path_factory, sources, count, draw):
    folder = tmp_path_factory.mktemp("ring")
    rings = [ring_of(folder, number, parts) for number, parts in enumerate(sources)]
    rings = [ring for ring in rings if ring[1]]
    if not rings:
        return
    places = st.integers(0, len(rings) - 1).flatmap(
        lambda source: st.tuples(st.just(source), st.integers(0, 2 * len(rings[source][1])))
    )
    wanted = draw.draw(st.lists(places, max_size=8))
    reader = TokenReader([stream for stream, _, _ in rings])
    runs = reader.windows([source for source, _ in wanted], [start for _, start in wanted], count)
    shape = {"rows": len(wanted), "count": count}
    (inputs, labels), ids = reader.read(runs, **shape, vocabulary_size=128), reader.document_ids(runs, **shape)
    assert inputs.shape == labels.shape == (len(wanted), count - 1)
    assert inputs.dtype == labels.dtype == np.int64
    assert ids.shape == (len(wanted), count)
    for row, (source, start) in enumerate(wanted):
        _, stream, owners = rings[source]
        places_T = [(start + place) % len(stream) for place in range(count)]
        assert inputs[row].tolist() == [stream[place] for place in places_T[:-1]]
        assert labels[row].tolist() == [stream[place] for place in places_T[1:]]
        is_new = [owners[here] != owners[before] or here == 0 for before, here in pairwise(places_T)]
        assert ids[row].tolist() == list(accumulate(is_new, initial=0))
    assert (np.diff(runs.row_N) >= 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_runs_of_every_dtype_are_those_of_a_memory_map(tmp_path, dtype):
    """Longer than what is read at once (64 KiB), and values over the whole range of the type."""
    draw = np.random.default_rng(0)
    largest = min(np.iinfo(dtype).max, 2**40)
    written = draw.integers(0, largest, 70_001, endpoint=True)
    dataset = write(tmp_path / "d", [written[:12_345], written[12_345:]], dtype)
    mapped = np.memmap(tmp_path / "d.bin", dtype=dtype, mode="r")
    reader = TokenReader([TokenStream((dataset,))])
    runs = reader.windows([0, 0], [3, 60_000], 65_000)
    inputs, labels = reader.read(runs, rows=2, count=65_000, vocabulary_size=largest + 1)
    around = np.concatenate((mapped[60_000:], mapped[:54_999]))
    for row, expected in enumerate((mapped[3:65_003], around)):
        assert (inputs[row] == expected[:-1]).all()
        assert (labels[row] == expected[1:]).all()
    assert runs.row_N.tolist() == [0, 1, 1]


def test_arguments_that_would_read_or_write_elsewhere(tmp_path):
    reader = TokenReader([TokenStream((write(tmp_path / "d", [[1, 2, 3, 4]]),))])
    for runs, rows in [
        (Runs([0], [0], [0], [3]), 1),  # too short for its row
        (Runs([0], [0], [0], [4]), 2),  # a row without runs
        (Runs([1], [0], [0], [4]), 2),
        (Runs([0, 0], [0, 0], [0, 0], [4, 1]), 1),  # too long
        (Runs([1, 0], [0, 0], [0, 0], [4, 4]), 2),  # rows descend
        (Runs([-1], [0], [0], [4]), 1),
        (Runs([0], [0], [-1], [4]), 1),
    ]:
        arrays = Runs(*(np.array(column) for column in runs))
        with pytest.raises(ValueError, match=r"runs"):
            reader.read(arrays, rows=rows, count=4, vocabulary_size=9)
        with pytest.raises(ValueError, match=r"runs"):
            reader.document_ids(arrays, rows=rows, count=4)
    with pytest.raises(IndexError, match="beyond the end"):
        reader.document_ids(Runs(*(np.array([value]) for value in (0, 0, 1, 4))), rows=1, count=4)
    with pytest.raises(IndexError, match="no such file"):
        _C.gather_tokens([0], [8], [0], [1], [0], [4], rows=1, columns=4, vocabulary=9)
    with pytest.raises(ValueError, match="dtype code"):
        _C.gather_tokens([0], [7], [0], [0], [0], [4], rows=1, columns=4, vocabulary=9)


def unaligned(pointers):
    """As in an index, behind a header of 34 bytes."""
    return np.concatenate((np.zeros(2, np.uint8), np.asarray(pointers, "<i8").view(np.uint8)))[2:].view("<i8")


@given(
    lengths=st.lists(st.one_of(st.just(0), st.integers(0, 5), st.integers(0, 10**9)), min_size=1, max_size=400),
    draw=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_search_is_numpys(lengths, draw):
    ends = np.cumsum(lengths)
    pointers, total = ends - lengths, int(ends[-1])
    if total == 0:
        return
    edges = np.concatenate((pointers, pointers - 1, ends - 1))
    some = draw.draw(st.lists(st.integers(0, total - 1), max_size=20))
    targets = np.concatenate((edges[(edges >= 0) & (edges < total)], np.array(some, dtype=np.int64)))
    found = _C.find_sequences(unaligned(pointers), total, targets)
    assert (found == np.searchsorted(pointers, targets, side="right") - 1).all()


@pytest.mark.parametrize("shape", ["even", "growing", "one giant", "mostly empty"])
def test_search_in_many_sequences_of_any_shape(shape):
    """Interpolation guesses wrong where lengths are uneven: it must still find the right one."""
    draw, size = np.random.default_rng(1), 300_000
    lengths = {
        "even": draw.integers(1, 1_000, size),
        "growing": np.minimum(np.exp(np.arange(size) / 10_000), 1e12).astype(np.int64),
        "one giant": np.where(np.arange(size) == 1_000, 10**15, 1),
        "mostly empty": np.where(draw.random(size) < 0.95, 0, 500),
    }[shape]
    ends = np.cumsum(lengths)
    pointers = ends - lengths
    targets = np.concatenate((draw.integers(0, ends[-1], 5_000), pointers[draw.integers(0, size, 5_000)]))
    targets = targets[targets < ends[-1]]
    expected = np.searchsorted(pointers, targets, side="right") - 1
    assert (_C.find_sequences(unaligned(pointers), int(ends[-1]), targets) == expected).all()


def test_documents_of_several_sequences_and_of_none(tmp_path):
    """Document starts are those of `document_indices`: here 0, 2, 2, 5 of six sequences, some of them empty."""
    write(tmp_path / "d", [[1, 1], [2], [3], [], [4, 4], [5]])
    path = tmp_path / "d.idx"
    content = bytearray(path.read_bytes())
    starts = [0, 2, 2, 5, 6]
    content[26:34] = len(starts).to_bytes(8, "little")
    content[34 + 12 * 6 :] = np.array(starts, "<i8").tobytes()
    path.write_bytes(content)
    reader = TokenReader([TokenStream((IndexedDataset(tmp_path / "d"),))])
    runs = reader.windows([0, 0, 0], [0, 2, 3], 7)
    ids = reader.document_ids(runs, rows=3, count=7).tolist()
    assert ids == [[0, 0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 2, 3, 3], [0, 0, 0, 1, 2, 2, 2]]


def bytes_read_by_this_process():
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_rank_reads_only_what_its_replica_needs(tmp_path):
    """Counted by the system: a replica's share of a step costs its tokens, whatever the others read."""
    draw, length = np.random.default_rng(0), 256
    for part in range(4):
        write(tmp_path / f"web_{part}", draw.integers(0, 900, (500, 100)), "<i4")
    mixture = Mixture(sources=(Source(name="web", weight=1, paths=(str(tmp_path / "web_*"),)),), isolate_documents=True)
    opened = open_mixture(mixture, sequence_length=length, seed=0, tokenizer_fingerprint="ours", vocabulary_size=900)
    shape = {"global_batch": 32, "replicas": 4, "micro_batch": 4}
    for replica in range(4):
        numbers = batch_sample_numbers(0, replica=replica, **shape).ravel()
        overhead = -bytes_read_by_this_process() + bytes_read_by_this_process()
        before = bytes_read_by_this_process()
        opened.batch(numbers)
        assert bytes_read_by_this_process() - before - overhead == len(numbers) * (length + 1) * 4


def test_threads_share_a_reader_and_others_go_on_meanwhile(tmp_path):
    """While one thread is inside a read of 16 million tokens, Python runs in another: the GIL is not held."""
    dataset = write(tmp_path / "d", [np.arange(1 << 20) % 60_000] * 16)
    reader = TokenReader([TokenStream((dataset,))])
    runs = reader.windows([0], [0], dataset.token_count)
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    ticking = threading.Thread(target=tick)
    ticking.start()
    began = time.perf_counter()
    reader.read(runs, rows=1, count=dataset.token_count, vocabulary_size=60_000)
    ended = time.perf_counter()
    done.set()
    ticking.join()
    quarter = (ended - began) / 4
    assert any(began + quarter < moment < ended - quarter for moment in ticks)

    def rows_from(first):
        places = reader.windows([0] * 16, np.arange(16) * 70_001 + first, 300)
        return reader.read(places, rows=16, count=300, vocabulary_size=60_000)

    with ThreadPoolExecutor(4) as pool:
        for first, (inputs, labels) in enumerate(pool.map(rows_from, range(64))):
            expected = (first + np.arange(16)[:, None] * 70_001 + np.arange(300)) % (1 << 20) % 60_000
            assert (inputs == expected[:, :-1]).all()
            assert (labels == expected[:, 1:]).all()
