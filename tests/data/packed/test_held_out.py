"""Held-out rows of several sources: each source packed by itself, numbers counted through, padding that is empty."""

from __future__ import annotations

import numpy as np
import pytest

from megaphi.data.batch import NO_SAMPLE
from megaphi.data.packed.epochs import PackedEpochs
from megaphi.data.packed.held_out import HeldOutRows, HeldOutSource, split_by_source


def source(name: str, lengths: list[int]) -> HeldOutSource:
    return HeldOutSource(
        rows=PackedEpochs(lengths, capacity=10, seed=0),
        make_batch=lambda rows, numbers_B: (name, rows, numbers_B.tolist()),  # pyright: ignore[reportArgumentType]
    )


def test_every_unit_of_every_source_lies_in_one_row_of_its_own_source():
    lengths = {"a": [9, 8, 3, 2], "b": [4], "c": [5, 5, 10]}
    sources = {name: source(name, of) for name, of in lengths.items()}
    held_out = HeldOutRows(sources={"none": None, "a": sources["a"], "empty": None, **sources}, content="")
    numbers = held_out.numbers_by_source(1)
    assert {name: of.tolist() for name, of in numbers.items()} == {
        "none": [],
        "a": [0, 1, 2],
        "empty": [],
        "b": [3],
        "c": [4, 5],
    }
    for name, numbers_N in numbers.items():
        if len(numbers_N):
            made, rows, _ = held_out.batch([*numbers_N, NO_SAMPLE])  # pyright: ignore[reportGeneralTypeIssues]
            assert made == name
            assert rows[-1] == []
            assert sorted(unit for row in rows for unit in row) == list(range(len(lengths[name])))
    assert held_out.batch([NO_SAMPLE, NO_SAMPLE])[1] == [[], []]  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (["data/math.jsonl.gz", "data/chat/"], ["math", "chat"]),
        (["math/held.jsonl", "chat/held.jsonl"], ["math/held.jsonl", "chat/held.jsonl"]),
        (["data/*.jsonl"], ["data/*.jsonl"]),
        (["."], ["."]),
    ],
)
def test_inputs_are_called_by_what_tells_them_apart(inputs, names):
    parts = split_by_source([*"abcdef"][: 3 * len(inputs)], dict.fromkeys(inputs, 3))
    assert list(parts) == names
    assert [unit for part in parts.values() for unit in part] == [*"abcdef"][: 3 * len(inputs)]


def test_other_rows_have_another_fingerprint():
    def fingerprint(content: str, **lengths: list[int]) -> str:
        return HeldOutRows(
            sources={name: source(name, of) for name, of in lengths.items()}, content=content
        ).fingerprint

    prints = [fingerprint("x", a=[1], b=[2]), fingerprint("y", a=[1], b=[2]), fingerprint("x", a=[2], b=[1])]
    assert len({*prints, fingerprint("x", b=[1], a=[2])}) == 4
    assert np.array_equal(prints[0], fingerprint("x", a=[1], b=[2]))
