"""The .bin/.idx format against Megatron's own reader and builder, both ways; and what happens to corrupted files."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.datasets import indexed_dataset as megatron

from megaphi.data.storage.formats.indexed_dataset import CODE_OF_DTYPE, IndexedDataset, best_dtype
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.errors import InputError

DOCUMENTS = st.lists(st.lists(st.integers(0, 127), max_size=6), min_size=1, max_size=12)
SOME = [[5, 6, 7], [], [1], [], [65_499, 0]]


def write(prefix, documents, dtype="uint16", description=None):
    with IndexedDatasetWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add_document(document)
        writer.finish(description or {})
    return IndexedDataset(prefix)


def write_with_megatron(prefix, documents, dtype=np.uint16):
    builder = megatron.IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for document in documents:
        builder.add_document(torch.tensor(document, dtype=torch.int64), [len(document)])
    builder.finalize(f"{prefix}.idx")


def bytes_of(prefix):
    return [(prefix.parent / (prefix.name + ending)).read_bytes() for ending in (".bin", ".idx")]


@given(documents=DOCUMENTS, dtype=st.sampled_from([dtype.name for dtype in CODE_OF_DTYPE]))
@settings(max_examples=30, deadline=None)
def test_same_bytes_as_megatron_and_read_both_ways(tmp_path_factory, documents, dtype):
    folder = tmp_path_factory.mktemp("parity")
    ours = write(folder / "ours", documents, dtype)
    write_with_megatron(folder / "theirs", documents, getattr(np, dtype))
    assert bytes_of(folder / "ours") == bytes_of(folder / "theirs")
    assert [ours.document(i).tolist() for i in range(len(ours))] == documents
    if ours.token_count:  # Megatron cannot map an empty .bin
        theirs = megatron.IndexedDataset(str(folder / "ours"))
        assert [theirs[i].tolist() for i in range(len(theirs))] == documents
        assert theirs.document_indices.tolist() == list(range(len(documents) + 1))


def test_documents_of_several_sequences_and_of_none(tmp_path):
    """Megatron can split a document into sequences; ours are one each, but theirs must be read."""
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.int32)
    for sequences in ([[1, 2], [3]], [], [[], [4]]):
        for sequence in sequences:
            builder.add_item(torch.tensor(sequence, dtype=torch.int64))
        builder.end_document()
    builder.finalize(str(tmp_path / "theirs.idx"))
    dataset = IndexedDataset(tmp_path / "theirs")
    assert [dataset.document(i).tolist() for i in range(3)] == [[1, 2, 3], [], [4]]
    assert (len(dataset), dataset.document_count, dataset.token_count) == (3, 3, 4)
    assert dataset.sequence_lengths.tolist() == [2, 1, 0, 1]
    assert dataset.description is None


def test_offsets_beyond_two_and_four_gigabytes(tmp_path):
    """Documents of 1.2 and 1.5 thousand million tokens, as holes in a sparse file: offsets exceed 2^31 and 2^32."""
    holes, marks = [1_200_000_000, 1_500_000_000], [[11, 12, 13], [14, 15]]
    with IndexedDatasetWriter(tmp_path / "ours", "uint16") as writer:
        for hole, mark in zip(holes, marks, strict=True):
            writer._note_lengths(np.array([hole]))
            writer._data.seek(2 * hole, os.SEEK_CUR)
            writer.add_document(mark)
        writer.finish({})
    with megatron._IndexWriter(str(tmp_path / "theirs.idx"), np.uint16) as index:
        index.write([holes[0], 3, holes[1], 2], None, [0, 1, 2, 3, 4])
    assert (tmp_path / "ours.idx").read_bytes() == (tmp_path / "theirs.idx").read_bytes()
    ours, theirs = IndexedDataset(tmp_path / "ours"), megatron.IndexedDataset(str(tmp_path / "ours"))
    assert ours.sequence_pointers[3] > 1 << 32 > ours.sequence_pointers[1] > 1 << 31
    for number, mark in ((1, marks[0]), (3, marks[1])):
        assert ours.document(number).tolist() == theirs[number].tolist() == mark
    assert ours.tokens(holes[0], 4).tolist() == [*marks[0], 0]
    assert ours.tokens(ours.token_count - 2, 2).tolist() == marks[1]


def test_tokens_are_one_stream(tmp_path):
    dataset = write(tmp_path / "d", SOME)
    flat = [token for document in SOME for token in document]
    assert dataset.tokens(0, 6).tolist() == flat
    assert dataset.tokens(2, 3).tolist() == flat[2:5]
    assert dataset.tokens(6, 0).size == 0
    with pytest.raises(IndexError, match="which has 6"):
        dataset.tokens(5, 2)
    with pytest.raises(IndexError, match="document 5"):
        dataset.document(5)
    dataset.tokens(0, 1)[0] = 3  # what is returned is the caller's own
    assert dataset.tokens(0, 1)[0] == 5
    tokens, lengths = dataset.documents([4, 0, 1, 4])
    assert (tokens.tolist(), lengths.tolist()) == ([*SOME[4], *SOME[0], *SOME[4]], [2, 3, 0, 2])
    assert [part.tolist() for part in dataset.documents([])] == [[], []]


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_closed_dataset_is_not_read(tmp_path):
    write(tmp_path / "d", SOME)
    before = open_files()
    with IndexedDataset(tmp_path / "d") as dataset:
        assert open_files() == before + 2
        pointers = dataset.sequence_pointers
    with pytest.raises(ValueError, match=r"d\.bin is closed"):
        dataset.tokens(0, 1)
    assert pointers.tolist() == [0, 6, 6, 8, 8]
    del dataset, pointers
    assert open_files() == before


def test_many_documents_at_once_are_the_same_as_one_by_one(tmp_path):
    write(tmp_path / "one", SOME)
    with IndexedDatasetWriter(tmp_path / "many", "uint16") as writer:
        writer.add_documents(np.concatenate(SOME).astype(int), [len(document) for document in SOME])
        assert (writer.document_count, writer.token_count) == (5, 6)
        writer.finish({})
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "many")


@pytest.mark.parametrize("vocabulary_size", [352, 65_499, 65_500, 65_536, 65_537, 100_352])
def test_dtype_is_megatrons_choice(vocabulary_size):
    assert best_dtype(vocabulary_size) == megatron.DType.optimal_dtype(vocabulary_size)


def test_tokens_that_do_not_fit_are_refused(tmp_path):
    with IndexedDatasetWriter(tmp_path / "d", "uint16") as writer:
        for wrong in ([65_536], [-1], [0.5]):
            with pytest.raises(ValueError, match="do not fit in uint16"):
                writer.add_document(wrong)
        with pytest.raises(ValueError, match="3 tokens cannot be documents of 4"):
            writer.add_documents([1, 2, 3], [4])
        writer.add_document([65_535])
        writer.finish({})
    assert IndexedDataset(tmp_path / "d").tokens(0, 1).tolist() == [65_535]


@pytest.mark.parametrize("content", ["7", "[]", "null", '"text"'])
def test_a_description_is_an_object(tmp_path, content):
    write(tmp_path / "d", [[1, 2]])
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(InputError, match=r"d\.json"):
        IndexedDataset(tmp_path / "d").description  # noqa: B018


@pytest.mark.parametrize("how", ["error", "abandoned", "bad description"])
def test_nothing_is_left_of_an_unfinished_dataset(tmp_path, how):
    old = write(tmp_path / "d", [[1, 2]], description={"old": True}).fingerprint
    before = sorted(tmp_path.iterdir())
    try:
        with IndexedDatasetWriter(tmp_path / "d", "int32") as writer:
            writer.add_document([3])
            if how == "error":
                raise KeyboardInterrupt
            if how == "bad description":
                writer.finish({"not": {"json"}})
    except (KeyboardInterrupt, TypeError):
        pass
    assert sorted(tmp_path.iterdir()) == before
    again = IndexedDataset(tmp_path / "d")
    assert (again.fingerprint, again.description) == (old, {"old": True, "fingerprint": old})


def test_a_full_disk_is_the_users_to_mend(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="no space left"):
        write(tmp_path / "d", SOME)
    assert list(tmp_path.iterdir()) == []


def test_fingerprints_tell_datasets_apart(tmp_path):
    documents = np.random.default_rng(0).integers(0, 60_000, (40, 1_000))
    prints = [write(tmp_path / "a", documents).fingerprint, write(tmp_path / "b", documents).fingerprint]
    assert prints[0] == prints[1]
    documents[20, 500] ^= 1
    moved = [*documents[:10], documents[10][:-1], [*documents[10][-1:], *documents[11]], *documents[12:]]
    prints += [write(tmp_path / "c", documents).fingerprint, write(tmp_path / "d", moved).fingerprint]
    assert len(set(prints)) == 3


def test_missing_files(tmp_path):
    with pytest.raises(InputError, match=r"not found: .*d\.idx .*give the prefix"):
        IndexedDataset(tmp_path / "d")
    write(tmp_path / "d", SOME)
    (tmp_path / "d.bin").unlink()
    with pytest.raises(InputError, match=r"not found: .*d\.bin \(only .*d\.idx is there"):
        IndexedDataset(tmp_path / "d")


def damage(path, *, at, value):
    content = bytearray(path.read_bytes())
    content[at : at + len(value)] = value
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"X", "does not start with MMIDIDX"),
        (9, struct.pack("<Q", 2), "has version 2"),
        (17, b"\x07", "dtype code 7"),
        (17, b"\x63", "dtype code 99"),
        (18, struct.pack("<Q", 1 << 60), "is truncated: its header announces"),
        (18, struct.pack("<Q", 4), "is corrupted: its header announces"),
        (34, struct.pack("<i", 4), "pointers do not match"),
        (34 + 5 * 4 + 8, struct.pack("<q", 4), "pointers do not match"),
        (-8, struct.pack("<q", 4), "documents do not cover"),
    ],
)
def test_damaged_index(tmp_path, at, value, message):
    write(tmp_path / "d", SOME)
    size = (tmp_path / "d.idx").stat().st_size
    damage(tmp_path / "d.idx", at=at % size, value=value)
    with pytest.raises(InputError, match=message) as error:
        IndexedDataset(tmp_path / "d")
    assert "d.idx" in str(error.value)


@pytest.mark.parametrize("kept", [0, 5, 20, 33, 34, 60])
def test_truncated_index(tmp_path, kept):
    write(tmp_path / "d", SOME)
    (tmp_path / "d.idx").write_bytes((tmp_path / "d.idx").read_bytes()[:kept])
    with pytest.raises(InputError, match=r"d\.idx is truncated"):
        IndexedDataset(tmp_path / "d")


@pytest.mark.parametrize(("size", "message"), [(0, "is truncated"), (11, "is truncated"), (14, "does not belong")])
def test_tokens_of_another_size(tmp_path, size, message):
    write(tmp_path / "d", SOME)
    os.truncate(tmp_path / "d.bin", size)
    with pytest.raises(InputError, match=rf"d\.bin {message}.* d\.idx describes 12"):
        IndexedDataset(tmp_path / "d")


def test_an_empty_dataset_is_one(tmp_path):
    dataset = write(tmp_path / "d", [])
    assert (len(dataset), dataset.token_count) == (0, 0)
    assert write(tmp_path / "e", [[], []]).document(1).tolist() == []
