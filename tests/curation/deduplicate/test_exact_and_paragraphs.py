"""Exact duplicates and repeated paragraphs against plain Python, in any shards, with little memory."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.curation.deduplicate import keys
from megaphi.curation.deduplicate.exact import ExactDuplicates
from megaphi.curation.deduplicate.paragraphs import RepeatedParagraphs
from megaphi.curation.document import Document, Rejected
from megaphi.curation.step import JointStep
from tests.curation.deduplicate.shards import documents, outcomes
from tests.decontamination import brute_force

TEXTS = st.lists(
    st.sampled_from(["a b", "a  b", "a\nb ", "A b", "a, b", "é", "e\u0301", "", "...", "c", "b a"]), max_size=14
)


def kept(step: JointStep, texts: list[str], shards: int = 1) -> list[str | None]:
    found = outcomes(step, documents(texts), shards=shards)
    return [one.detail.split()[-1] if isinstance(one, Rejected) else None for one in found]


@given(texts=TEXTS, shards=st.integers(1, 5), ignore=st.sampled_from(["blanks", "all_but_words"]))
@settings(max_examples=40, deadline=None)
def test_the_first_of_equal_texts_is_kept(
    texts: list[str], shards: int, ignore: Literal["blanks", "all_but_words"]
) -> None:
    def form(number: int) -> Any:
        if ignore == "blanks":
            return unicodedata.normalize("NFC", texts[number]).split()
        return brute_force.words(texts[number]) or number

    first = [next(other for other in range(number + 1) if form(other) == form(number)) for number in range(len(texts))]
    expected = [None if other == number else f"d{other}" for number, other in enumerate(first)]
    assert kept(ExactDuplicates(ignore=ignore), texts, shards) == expected


@given(seed=st.integers(0, 10**6), memory=st.sampled_from([300, 2_000, 20_000]))
@settings(max_examples=40, deadline=None)
def test_the_first_of_equal_keys_in_any_memory(seed: int, memory: int) -> None:
    """A key that half of all documents have too, and keys at both ends of the range."""
    draw = np.random.default_rng(seed)
    values = np.array([0, 1, 2**63, 2**64 - 1, *draw.integers(0, 2**64, 9, dtype=np.uint64)], np.uint64)
    key = values[np.minimum(draw.integers(0, 26, 200), len(values) - 1)]
    edges = [0, *sorted(draw.integers(0, 200, 3).tolist()), 200]
    files = []
    for start, stop in pairwise(edges):
        order = np.argsort(key[start:stop], kind="stable")
        files.append(keys.KeyFile(key[start:stop][order], order, start))
    found = np.arange(200)
    for later, first in keys.first_of_equal(files, memory_bytes=memory):
        found[later] = first
    assert found.tolist() == [int(np.flatnonzero(key == one)[0]) for one in key]


LINES = [
    "the same line in many of these",
    "The same LINE, in many of these!",
    "another line of just six words",
    "short",
    "",
]


@given(
    seed=st.integers(0, 10**6),
    shards=st.integers(1, 4),
    keep_first=st.booleans(),
    most=st.integers(1, 4),
    unit=st.sampled_from(["line", "paragraph"]),
)
@settings(max_examples=40, deadline=None)
def test_units_of_many_documents_are_taken_out(
    seed: int, shards: int, keep_first: bool, most: int, unit: Literal["line", "paragraph"]
) -> None:
    draw = random.Random(seed)
    own = [f"a line that is number {number} alone" for number in range(12)]
    between = "\n" if unit == "line" else "\n\n"
    texts = [between.join([*draw.choices(LINES[: 4 if unit == "paragraph" else 5], k=4), line]) for line in own]
    step = RepeatedParagraphs(unit=unit, most_documents=most, keep_first=keep_first, least_share=0.0)
    pieces = [text.split(between) for text in texts]
    spelled: list[list[tuple[str, ...]]] = [[tuple(brute_force.words(one)) for one in piece] for piece in pieces]
    counts: Counter[tuple[str, ...]] = Counter(one for piece in spelled for one in set(piece) if len(one) >= 5)
    expected, seen = [], set()
    for piece, names in zip(pieces, spelled, strict=True):
        left = [
            one
            for one, name in zip(piece, names, strict=True)
            if counts[name] <= most or (keep_first and name not in seen)
        ]
        seen |= set(names)
        expected.append(between.join(left).strip("\n") if len(left) < len(piece) else between.join(piece))
    found = outcomes(step, documents(texts), shards=shards)
    assert [one.text if isinstance(one, Document) else None for one in found] == expected


def test_documents_of_which_little_is_left_are_rejected() -> None:
    notice = "All rights reserved by the people who made these pages."
    texts = [f"{notice}\n\nPage {number} says this" for number in range(8)] + [notice, f"{notice}\n{'own words ' * 99}"]
    found = outcomes(RepeatedParagraphs(least_share=0.5), documents(texts), shards=2)
    assert isinstance(found[0], Rejected)
    assert (found[0].reason, found[0].detail) == (
        "repeated_paragraphs",
        "16 of 73 characters left without 1 repeated lines",
    )
    assert isinstance(found[8], Rejected)
    assert isinstance(found[9], Document)
    assert found[9].metadata == {"repeated_lines": 1}
    assert re.fullmatch(r"(own words )+", found[9].text)
    untouched = documents(["nothing of this is repeated anywhere else"])
    assert outcomes(RepeatedParagraphs(), untouched) == untouched
