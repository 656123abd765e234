"""Joining: the same bytes for any window and any number of open shards, flat memory, few files, damage is found."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.data.lineage import copies
from megaphi.data.storage import indexed_dataset_writer
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.data.text.documents import FilePiece
from megaphi.data.text.input_formats import Format
from megaphi.data.tokenize import join as subject
from megaphi.data.tokenize.plan import Shard, TokenizePlan
from megaphi.data.tokenize.settings import DecidedSettings, TokenizeSettings
from megaphi.errors import InputError
from tests.data.order import order_reference as reference


def plan_of(output: Path, shards: list[list[list[int]]], *, seed: int | None) -> TokenizePlan:
    """A plan whose shards are written already."""
    made = []
    for number, documents in enumerate(shards):
        prefix = output.with_suffix(".parts") / f"shard{number}"
        with IndexedDatasetWriter(prefix, "uint16") as writer:
            if documents:
                writer.add_documents(np.concatenate(documents).astype(int), list(map(len, documents)))
            writer.finish({"empty_documents": 1})
        made.append(Shard(prefix, (FilePiece(Path("x"), 0, 1, 1, Format("lines")),)))
    asked = TokenizeSettings(shuffle_seed=seed)
    settings = DecidedSettings(asked=asked, vocabulary_size=1_024, encoder="tiktoken")
    return TokenizePlan(output=output, files=[], shards=made, settings=settings, description={})


def documents_of(prefix: Path) -> list[list[int]]:
    dataset = IndexedDataset(prefix)
    return [dataset.document(number).tolist() for number in range(len(dataset))]


@given(
    lengths=st.lists(st.lists(st.integers(1, 6), max_size=9), min_size=1, max_size=6),
    seed=st.sampled_from([None, 0, 5]),
    window=st.integers(1, 12),
    window_bytes=st.integers(2, 40),
    open_shards=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_any_window_gives_the_documents_in_the_keyed_order(
    tmp_path_factory, lengths, seed, window, window_bytes, open_shards
):
    token = iter(range(1_000))
    shards = [[[next(token) for _ in range(length)] for length in shard] for shard in lengths]
    documents = [document for shard in shards for document in shard]
    output = tmp_path_factory.mktemp("join") / "d"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "WINDOW_DOCUMENTS", window)
        patch.setattr(subject, "WINDOW_BYTES", window_bytes)
        patch.setattr(subject, "OPEN_SHARDS", open_shards)
        plan = plan_of(output, shards, seed=seed)
        if not documents:
            with pytest.raises(InputError, match="there is no text"):
                subject.join_shards(plan, show_progress=False)
            return
        subject.join_shards(plan, show_progress=False)
    order = range(len(documents))
    if seed is not None:
        key = reference.derive_key(seed, "documents")
        order = [reference.permute(len(documents), key, place) for place in order]
    assert documents_of(output) == [documents[number] for number in order]
    found = IndexedDataset(output).description or {}
    assert (found["documents"], found["empty_documents"]) == (len(documents), len(shards))


def test_ten_times_the_documents_take_the_same_memory(tmp_path, monkeypatch):
    """Tiny documents. (All shards stay open, as opening files makes Python's table of interned strings grow.)"""
    monkeypatch.setattr(subject, "WINDOW_DOCUMENTS", 1_000)
    monkeypatch.setattr(indexed_dataset_writer, "CHUNK", 1_000)
    monkeypatch.setattr(copies, "FILE_BYTES", 1_000 * copies.ROW.itemsize)
    peaks = []
    for number, documents in enumerate((1_000, 1_000, 10_000)):  # the first warms up
        shard = [[token % 1_000] for token in range(documents)]
        plan = plan_of(tmp_path / f"d{number}", [shard] * 3, seed=0)
        tracemalloc.start()
        subject.join_shards(plan, show_progress=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.05 * peaks[1] + 10_000


def test_few_files_are_open_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "OPEN_SHARDS", 4)
    plan = plan_of(tmp_path / "d", [[[number]] for number in range(60)], seed=0)
    before, most = len(list(Path("/proc/self/fd").iterdir())), 0

    class Counting(IndexedDataset):
        def document(self, number):
            nonlocal most
            mapped = sum(".parts/shard" in line for line in Path("/proc/self/maps").read_text().splitlines())
            most = max(most, mapped + len(list(Path("/proc/self/fd").iterdir())) - before)
            return super().document(number)

    monkeypatch.setattr(subject, "IndexedDataset", Counting)
    subject.join_shards(plan, show_progress=False)
    assert 0 < most <= 2 * (4 + 1) + 8  # two files a shard; files of the writer


def test_a_damaged_shard_is_found(tmp_path):
    plan = plan_of(tmp_path / "d", [[[1], [2]], [[3]]], seed=None)
    os.truncate(f"{plan.shards[1].prefix}.bin", 1)
    assert subject.corrupted_shards(plan.shards) == [plan.shards[1]]
    with pytest.raises(InputError, match="cannot be read: run the same command again"):
        subject.join_shards(plan, show_progress=False)
    assert not list(tmp_path.glob("d.[bij]*"))
