"""Merged datasets are byte for byte what Megatron's `add_index` makes; what does not belong together is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.datasets import indexed_dataset as megatron

from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.data.storage.merge_datasets import find_pairs, merge_datasets
from megaphi.errors import InputError
from tests.test_house import ROOT

QUIET = {"show_progress": False}
DATASET = st.lists(st.lists(st.lists(st.integers(0, 99), max_size=3), max_size=3), max_size=4)


def write_with_megatron(prefix, documents, dtype=np.int32):
    """Documents of several sequences each."""
    builder = megatron.IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for sequences in documents:
        for sequence in sequences:
            builder.add_item(torch.tensor(sequence, dtype=torch.int64))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")


def write(prefix, documents, description, dtype="uint16"):
    with IndexedDatasetWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add_document(document)
        writer.finish(description)


def pair(prefix):
    return [(prefix.parent / f"{prefix.name}{ending}").read_bytes() for ending in (".bin", ".idx")]


@given(datasets=st.lists(DATASET, min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_same_bytes_as_megatrons_builder(tmp_path_factory, datasets):
    folder = tmp_path_factory.mktemp("merge")
    builder = megatron.IndexedDatasetBuilder(str(folder / "theirs.bin"), dtype=np.int32)
    for number, documents in enumerate(datasets):
        write_with_megatron(folder / f"part{number}", documents)
        with mock.patch("gc.collect"):  # Megatron collects garbage after every input
            builder.add_index(str(folder / f"part{number}"))
    builder.finalize(str(folder / "theirs.idx"))
    prefixes = [folder / f"part{number}" for number in range(len(datasets))]
    assert merge_datasets(prefixes, folder / "ours", **QUIET) == sum(map(len, datasets))
    assert pair(folder / "ours") == pair(folder / "theirs")
    assert not (folder / "ours.json").exists()


def test_a_description_says_what_was_merged(tmp_path):
    same = {"tokenizer": "t", "vocabulary_size": 352, "end_of_text": 257}
    write(tmp_path / "b", [[1], [2, 3]], {**same, "unique_tokens": 3, "lineage": [{"recipe": "b"}]})
    write(tmp_path / "a", [[4]], {**same, "inputs": [], "unique_tokens": 1, "lineage": None})
    merge_datasets(find_pairs(tmp_path), tmp_path / "out" / "all", **QUIET)
    merged = IndexedDataset(tmp_path / "out" / "all")
    assert [merged.document(number).tolist() for number in range(3)] == [[4], [1], [2, 3]]
    assert merged.description == {
        **same,
        "merged": [{"name": "a", "documents": 1, "tokens": 1}, {"name": "b", "documents": 2, "tokens": 3}],
        "documents": 3,
        "tokens": 4,
        "dtype": "uint16",
        "unique_tokens": 4,
        "lineage": [{"recipe": "b"}],
        "fingerprint": merged.fingerprint,
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["all.bin", "all.idx", "all.json"]


def test_what_does_not_belong_together(tmp_path):
    write(tmp_path / "a", [[1]], {"tokenizer": "one"})
    write(tmp_path / "b", [[1]], {"tokenizer": "other"})
    write(tmp_path / "c", [[1]], {"tokenizer": "one"}, dtype="int32")
    for prefixes, message in (
        (["a", "b"], r"b and .*a were made with different tokenizers"),
        (["a", "c"], r"c holds int32 tokens, .*a uint16"),
        (["a", "d"], r"not found: .*d\.idx"),
        (["a", "all"], "not found"),
        ([], "nothing to merge"),
    ):
        with pytest.raises(InputError, match=message):
            merge_datasets([tmp_path / name for name in prefixes], tmp_path / "all", **QUIET)
        assert not list(tmp_path.glob("*all*"))
    with pytest.raises(InputError, match="is one of the datasets"):
        merge_datasets([tmp_path / "a"], tmp_path / "a", **QUIET)


def test_multimodal_and_truncated_inputs(tmp_path):
    write(tmp_path / "a", [[1, 2]], {})
    whole = (tmp_path / "a.idx").read_bytes()
    (tmp_path / "a.idx").write_bytes(whole + b"\0")
    with pytest.raises(InputError, match="multimodal"):
        merge_datasets([tmp_path / "a"], tmp_path / "all", **QUIET)
    (tmp_path / "a.idx").write_bytes(whole)
    (tmp_path / "a.bin").write_bytes(b"\1")
    with pytest.raises(InputError, match=r"a\.bin is truncated"):
        merge_datasets([tmp_path / "a"], tmp_path / "all", **QUIET)


def test_folders_without_pairs(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        find_pairs(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no \.bin/\.idx pairs"):
        find_pairs(tmp_path)
    (tmp_path / "half.bin").touch()
    with pytest.raises(InputError, match=r"only one of half\.bin and half\.idx"):
        find_pairs(tmp_path)


def test_ten_times_the_documents_take_the_same_memory(tmp_path):
    peaks = []
    for documents in (200_000, 2_000_000):
        prefix = tmp_path / str(documents)
        with IndexedDatasetWriter(prefix, "uint16") as writer:
            writer.add_documents(np.ones(documents, dtype=np.uint16), np.ones(documents, dtype=np.int64))
            writer.finish({})
        tracemalloc.start()
        merge_datasets([prefix, prefix], tmp_path / "all", **QUIET)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0] + 1_000_000  # the smaller .bin is less than a block
    assert peaks[1] < 8 << 20  # the index alone has 80 MB


def test_the_tool_takes_megatrons_options(tmp_path):
    for name in ("x", "y"):
        write(tmp_path / name, [[1], [2]], {"tokenizer": "t"})
    command = [sys.executable, "tools/merge_datasets.py", "--input", str(tmp_path)]
    command += ["--output-prefix", str(tmp_path / "out" / "all")]
    ended = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert "4 documents of 2 datasets" in ended.stdout
    write(tmp_path / "z", [[1]], {"tokenizer": "another"})
    ended = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "merge_datasets: " in ended.stderr
    assert json.loads((tmp_path / "out" / "all.json").read_text())["documents"] == 4
