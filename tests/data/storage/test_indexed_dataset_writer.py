"""The writer's memory does not grow with the documents, and a full disk or a killed process leaves no half file."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.datasets import indexed_dataset as megatron

import megaphi.data.storage.indexed_dataset_writer as subject
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter, write_index
from megaphi.errors import InputError
from tests.test_house import ROOT


def write_many(prefix, documents):
    """Peak of traced bytes while so many documents of two tokens are written."""
    tokens = np.arange(2_000, dtype=np.uint16)
    lengths = np.full(1_000, 2)
    tracemalloc.start()
    with IndexedDatasetWriter(prefix, "uint16") as writer:
        for _ in range(documents // 1_000):
            writer.add_documents(tokens, lengths)
        writer.finish({})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_ten_times_the_documents_take_the_same_memory(tmp_path):
    write_many(tmp_path / "warm", 1_000)
    few, many = write_many(tmp_path / "few", 200_000), write_many(tmp_path / "many", 2_000_000)
    assert many < 1.05 * few + 10_000
    assert many < 4 << 20  # the index alone has 40 MB
    assert len(IndexedDataset(tmp_path / "many")) == 2_000_000


@given(lengths=st.lists(st.integers(0, 9), max_size=20), chunk=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_an_index_in_chunks_is_megatrons(tmp_path_factory, lengths, chunk):
    folder = tmp_path_factory.mktemp("index")
    pieces = [np.array(lengths[start : start + chunk], dtype=np.int32) for start in range(0, len(lengths), chunk)]
    with open(folder / "ours.idx", "wb") as file:
        write_index(
            file,
            np.dtype("<i4"),
            sequences=len(lengths),
            length_chunks=lambda: pieces,
            documents=len(lengths),
            document_index_chunks=[np.arange(len(lengths) + 1)],
        )
    with megatron._IndexWriter(str(folder / "theirs.idx"), np.int32) as index:
        index.write(lengths, None, list(range(len(lengths) + 1)))
    assert (folder / "ours.idx").read_bytes() == (folder / "theirs.idx").read_bytes()


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_small_chunks_change_no_byte(tmp_path, monkeypatch, chunk):
    documents = [np.arange(length) for length in (3, 0, 5, 1, 0, 0, 2)]
    for name in ("usual", "small"):
        with IndexedDatasetWriter(tmp_path / name, "uint16") as writer:
            for document in documents:
                writer.add_document(document)
            writer.finish({"a": 1})
        monkeypatch.setattr(subject, "CHUNK", chunk)
    for ending in (".bin", ".idx", ".json"):
        assert (tmp_path / f"usual{ending}").read_bytes() == (tmp_path / f"small{ending}").read_bytes()


PROGRAM = """
import resource, signal, sys
import numpy as np
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.errors import InputError
limit, prefix, documents = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with IndexedDatasetWriter(prefix, "uint16") as writer:
        for _ in range(documents):
            writer.add_documents(np.zeros(1_000), [1_000])
        writer.finish({"new": True})
except InputError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize(("limit", "documents"), [(100_000, 1_000), (4_000, 1), (100, 1), (12_000, 5)])
def test_a_file_size_limit_leaves_the_old_dataset_and_nothing_else(tmp_path, limit, documents):
    """The .bin, the index or the description is the one that no longer fits."""
    with IndexedDatasetWriter(tmp_path / "d", "uint16") as writer:
        writer.add_document([7])
        writer.finish({"old": True})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    command = [sys.executable, "-c", PROGRAM, str(limit), str(tmp_path / "d"), str(documents)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if limit > 2_000 * documents:
        assert ended.returncode == 0, ended.stderr
        return
    assert (ended.returncode, "larger than this process may write" in ended.stdout) == (2, True), ended.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_written_after_the_end_is_refused(tmp_path):
    with IndexedDatasetWriter(tmp_path / "d", "uint16") as writer:
        writer.finish({})
        with pytest.raises(ValueError, match="not open"):
            writer.add_document([1])
    with pytest.raises(ValueError, match="not open"):
        writer.finish({})


def test_a_description_that_is_no_json_harms_nothing(tmp_path):
    with IndexedDatasetWriter(tmp_path / "d", "uint16") as writer, pytest.raises(TypeError):
        writer.finish({"not": {"json"}})
    assert list(tmp_path.iterdir()) == []


def test_a_document_that_the_format_cannot_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "LONGEST_DOCUMENT", 3)
    with IndexedDatasetWriter(tmp_path / "d", "uint16") as writer, pytest.raises(InputError, match="split it"):
        writer.add_document([1, 2, 3, 4])
