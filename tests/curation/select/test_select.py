"""Samples against a brute force over all documents, whatever the shards; the held-out part; files by a field."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.curation.document import Document, Rejected
from megaphi.curation.read.json_lines import ReadJsonLines
from megaphi.curation.select.hold_out import HoldOut
from megaphi.curation.select.sample import SampleByHash
from megaphi.curation.write.json_lines import WriteJsonLines
from megaphi.errors import InputError


def document(name: str, *, length: int = 10, **metadata: object) -> Document:
    return Document(id=name, source="s", place=name, text="x" * length, metadata=metadata)


def chosen(step: SampleByHash, shards: Sequence[Sequence[Document]], folder: Path) -> set[str]:
    folders = []
    for number, documents in enumerate(shards):
        folders.append(folder / str(number))
        folders[-1].mkdir(parents=True)
        step.gather(iter(documents), number, folders[-1])
    decisions = folder / "decisions"
    decisions.mkdir()
    step.decide(folders, decisions)
    kept = set()
    for number, documents in enumerate(shards):
        decide = step.open_decided(decisions, number)
        for one in documents:
            outcome = decide(one)
            assert isinstance(outcome, Document | Rejected)
            if isinstance(outcome, Document):
                kept.add(outcome.id)
            else:
                assert outcome.reason == "not_in_sample"
    return kept


def brute_force(documents: Sequence[Document], budget: int, by: str) -> set[str]:
    kept, used, full = set(), {}, set()
    for one in sorted(documents, key=lambda one: hashlib.sha256(one.id.encode()).digest()):
        group = one.metadata[by]
        used[group] = used.get(group, 0) + len(one.text)
        if used[group] > budget:
            full.add(group)
        if group not in full:
            kept.add(one.id)
    return kept


@settings(max_examples=40)
@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 400), st.integers(1, 7), st.integers(1, 4))
def test_a_sample_is_the_beginning_of_the_order_by_hash(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], budget: int, shards: int, groups: int
) -> None:
    documents = [document(f"d{n}", length=length, group=f"../{n % groups}") for n, length in enumerate(lengths)]
    cut = [documents[start::shards] for start in range(shards)]
    found = chosen(SampleByHash(characters=budget, by="group"), cut, tmp_path_factory.mktemp("sample"))
    assert found == brute_force(documents, budget, "group")


def test_a_larger_budget_keeps_all_of_a_smaller_one(tmp_path: Path) -> None:
    documents = [document(f"d{number}", length=number % 30 + 1) for number in range(300)]
    small, large = (
        chosen(SampleByHash(characters=size, memory_megabytes=1), [documents], tmp_path / str(size))
        for size in (900, 2_000)
    )
    assert small < large
    assert 870 < sum(len(one.text) for one in documents if one.id in small) <= 900
    assert chosen(SampleByHash(characters=10**6), [documents, []], tmp_path / "all") == {one.id for one in documents}


def test_held_out_documents_are_about_one_in_so_many() -> None:
    step = HoldOut(one_in=16)
    marked = [step.mark(document(f"d{number}")).metadata["split"] for number in range(4_000)]
    assert set(marked) == {"train", "validation"}
    assert 200 < marked.count("validation") < 300
    twin = step.mark(document("d7", length=99, title="twin"))
    assert twin.metadata == {"title": "twin", "split": marked[7]}


def test_files_by_a_field(tmp_path: Path) -> None:
    writer, folders = WriteJsonLines(by="split", compress=False), [tmp_path / "0", tmp_path / "1"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        names = ("train", "validation") if number else ("train",)
        writer.write([document(f"{number}{name}", split=name) for name in names], folder)
    output = tmp_path / "output"
    output.mkdir()
    writer.join(folders, output, {})
    found = sorted(str(path.relative_to(output)) for path in output.rglob("*.jsonl"))
    assert found == ["train/00000.jsonl", "train/00001.jsonl", "validation/00001.jsonl"]
    reader = ReadJsonLines(paths=(str(output / "train"),))
    read = [one for portion in reader.portions() for one in reader.read(portion)]
    assert [one.id for one in read if isinstance(one, Document)] == ["0train", "1train"]


@pytest.mark.parametrize("value", [None, "../x", "", 3, "a/b"])
def test_a_value_that_names_no_folder(value: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"write\.by=split: of d it is .*, no name of a folder"):
        WriteJsonLines(by="split").write([document("d", split=value)], tmp_path)
