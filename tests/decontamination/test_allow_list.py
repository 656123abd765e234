"""Allow lists: common phrases are allowed, copies of a benchmark are not, and what is allowed contaminates nothing."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from megaphi.decontamination.allow_list import SKETCH, RunWitnesses, are_related, read_allow_list, write_allow_list
from megaphi.decontamination.item_index import index_items
from megaphi.decontamination.matching import match_text
from megaphi.decontamination.rule import ContaminationRule
from megaphi.decontamination.words import words_of
from megaphi.errors import InputError
from tests.decontamination.test_matching import items_of

COMMON = "Permission is hereby granted, free of charge, to any person obtaining a copy of this"
SECRET = "A farmer has seventeen sheep and all but nine of them run away on one day in May"
DRAW = random.Random(3)


def noise(words: int) -> str:
    return " ".join("".join(DRAW.choices("abcdefgh", k=5)) for _ in range(words))


def pages() -> list[str]:
    """Twelve pages with the common phrase; twelve copies of a page of the benchmark, each with a line of its own."""
    copied = f"{noise(30)} {SECRET} {noise(30)}"
    return [f"{noise(40)} {COMMON} {noise(40)}" for _ in range(12)] + [f"{copied} {noise(9)}" for _ in range(12)]


def test_common_runs_are_allowed_and_copies_are_one_witness() -> None:
    items = items_of([f"{COMMON} software?", SECRET])
    texts = pages()
    random.Random(1).shuffle(texts)
    witnesses = RunWitnesses(index_items(items))
    for text in texts:
        witnesses.add(text)
    allowed = witnesses.allowed()
    words = words_of(COMMON)
    assert list(allowed) == sorted(" ".join(words[first : first + 13]) for first in range(len(words) - 12))
    assert set(allowed.values()) == {10}
    index = index_items(items, allowed=allowed)
    found = [match_text(text, index) for text in texts]
    # without the list every page is contaminated; the common phrase is still most of the item's short runs
    assert {match.exact for one in found for match in one.matches if match.item == 0} == {None}
    assert all(match.exact for one in found for match in one.matches if match.item == 1)
    assert all(match_text(text, index_items(items)).status == "contaminated" for text in texts)


def test_too_few_witnesses() -> None:
    witnesses = RunWitnesses(index_items(items_of([COMMON])), enough=10)
    for _ in range(9):
        witnesses.add(f"{noise(40)} {COMMON} {noise(40)}")
    assert witnesses.allowed() == {}
    witnesses.add(f"{noise(40)} {COMMON} {noise(40)}")
    assert len(witnesses.allowed()) == len(words_of(COMMON)) - 12


@pytest.mark.parametrize("shared", [0.0, 0.3, 0.45, 0.55, 0.8, 1.0])
@pytest.mark.parametrize("size", [40, 200, 5_000])
def test_sketches_tell_related_texts(shared: float, size: int) -> None:
    """Exactly up to 256 runs; by samples of 256 beyond, whose error is about three hundredths."""
    draw = np.random.default_rng(size)
    common = draw.integers(0, 2**64, size=round(shared * size), dtype=np.uint64)

    def sketch(own: int) -> np.ndarray:
        return np.unique(np.concatenate([common, draw.integers(0, 2**64, size=own, dtype=np.uint64)]))[:SKETCH]

    left, right = sketch(size - len(common)), sketch(3 * size - len(common))
    if size < SKETCH // 3 or abs(shared - 0.5) > 0.1:
        assert are_related(left, right) == are_related(right, left) == (shared >= 0.5)


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "allowed.txt"
    runs = {" ".join(f"w{start + place}" for place in range(13)): 10 for start in range(3)}
    write_allow_list(path, runs)
    assert set(read_allow_list(path, exact_words=13)) == set(runs)
    path.write_text("The cat, one two THREE\n\n", encoding="utf-8")
    assert set(read_allow_list(path, exact_words=5)) == {"the cat one two three"}
    with pytest.raises(InputError, match=r"allowed.txt:1: 5 words, expected a run of 13: 'The cat, one two THREE'"):
        read_allow_list(path, exact_words=ContaminationRule().exact_words)
    with pytest.raises(InputError, match=r"there is no file .*none.txt"):
        read_allow_list(tmp_path / "none.txt", exact_words=13)
