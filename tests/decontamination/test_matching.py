"""Words, n-grams and matches against a second implementation in plain Python, on random and on real text."""

from __future__ import annotations

import itertools
import pickle
import random
import sys
import unicodedata
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megaphi.config import from_plain
from megaphi.data.text.documents import read_documents
from megaphi.decontamination.findings import TextPlace, scan_texts
from megaphi.decontamination.item_index import BenchmarkItem, ItemIndex, index_items
from megaphi.decontamination.matching import match_texts
from megaphi.decontamination.rule import ContaminationRule
from megaphi.decontamination.words import STANDS_ALONE, _kinds, words_of
from megaphi.errors import InputError
from tests.decontamination import brute_force
from tests.test_house import ROOT

SMALL = ContaminationRule(exact_words=4, overlap_words=2)
WORDS = "the The a cat, cat sat on.on 中文 ก็ข é e\u0301 ﬁ Σ ς 3.14 don't x_y \n - 한국 नमस्ते İ".split(" ")
TEXTS = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=3)), max_size=16).map(" ".join)


def items_of(texts: list[str]) -> list[BenchmarkItem]:
    return [
        BenchmarkItem(set="s", name=str(number), place=f"s.jsonl:{number}", text=text)
        for number, text in enumerate(texts, start=1)
    ]


def spelled(texts: list[str]) -> list[list[str]]:
    found = words_of(texts)
    per_text: list[list[str]] = [[] for _ in texts]
    for word, text in enumerate(found.text_W.tolist()):
        per_text[text].append(found.spelled(word, 1))
    return per_text


@given(texts=st.lists(st.one_of(TEXTS, st.text()), max_size=4))
@example(texts=["", "a\ud800b", "ํ a", "ก็a", "中ํ文x中"])
@settings(max_examples=400, deadline=None)
def test_words_are_those_of_the_definition(texts: list[str]) -> None:
    assert spelled(texts) == [brute_force.words(text) for text in texts]
    for size in (1, 2, 5):
        found = words_of(texts).ngrams(size)
        expected = [gram for text in texts for gram in brute_force.grams(text, size)]
        assert len(found.hash_N) == len(expected)
        by_hash = dict(zip(found.hash_N.tolist(), expected, strict=True))
        assert [by_hash[one] for one in found.hash_N.tolist()] == expected, "equal hashes are equal runs"
        assert len(by_hash) == len(set(expected)), "equal runs have equal hashes"


def test_the_scripts_without_blanks_are_those_of_unicode() -> None:
    """By the names of all characters; fails when a newer Unicode adds letters outside the blocks."""
    known = _kinds()
    differing = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if (known[code] == STANDS_ALONE) != brute_force.stands_alone(chr(code))
        and unicodedata.normalize("NFKC", chr(code)) == chr(code)
    ]
    assert differing == []


def test_hashes_of_real_words_do_not_agree_by_chance() -> None:
    texts = real_texts()
    found = words_of(texts)
    spelled_words = {found.text[start:end] for start, end in zip(found.start_W, found.end_W, strict=True)}
    assert len(np.unique(found.hash_W)) == len(spelled_words) > 5_000
    runs = {gram for text in texts for gram in brute_force.grams(text, 13)}
    hashes = np.unique(found.ngrams(13).hash_N)
    assert len(hashes) == len(runs) > 50_000
    for bits in (np.unique(hashes >> np.uint64(32)), np.unique(hashes << np.uint64(32))):
        assert len(bits) > 0.9999 * len(hashes), "the halves of a hash are hashes"


@given(
    items=st.lists(TEXTS, max_size=4),
    texts=st.lists(TEXTS, max_size=5),
    cuts=st.lists(st.tuples(*[st.integers(0, 99)] * 3), max_size=3),
    allowed=st.integers(0, 2),
)
@settings(max_examples=400, deadline=None)
def test_matches_are_those_of_the_rule(
    items: list[str], texts: list[str], cuts: list[tuple[int, int, int]], allowed: int
) -> None:
    """Training texts hold cuts of the items; some of the items' long runs are allowed."""
    for item, start, length in cuts if items else []:
        source = items[item % len(items)]
        texts = [*texts, f"x {source[start % (len(source) + 1) :][: 3 + length]} y"]
    runs = [gram for item in items for gram in brute_force.grams(item, SMALL.exact_words)]
    chosen = runs[:: allowed + 1] if allowed else []
    index: ItemIndex = pickle.loads(
        pickle.dumps(index_items(items_of(items), SMALL, allowed=[" ".join(one) for one in chosen]))
    )
    found = match_texts(texts, index)
    for text, matches in zip(texts, found, strict=True):
        assert matches.status == brute_force.status(text, items, SMALL, chosen, is_item=False)
        shares = {match.item: match.share for match in matches.matches}
        expected = {number: brute_force.share(text, item, 2) for number, item in enumerate(items)}
        assert shares == {number: share for number, share in expected.items() if share}
        for match in matches.matches:
            assert match.exact == brute_force.first_exact(text, items[match.item], SMALL, chosen)
    findings = scan_texts([(TextPlace(0, number, "f"), text) for number, text in enumerate(texts)], index)
    for number, item in enumerate(items):
        assert findings.status_of(number, index) == brute_force.status(item, texts, SMALL, chosen, is_item=True)


@given(texts=st.lists(TEXTS, min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_findings_do_not_depend_on_how_the_data_is_cut(texts: list[str], seed: int) -> None:
    index = index_items(items_of(texts[::2]), SMALL)
    placed = [(TextPlace(0, number, "f"), text) for number, text in enumerate(texts)]
    whole = scan_texts(placed, index)
    parts = [scan_texts([one], index) for one in placed]
    random.Random(seed).shuffle(parts)
    merged = scan_texts([], index)
    for part in parts:
        merged.merge(part)
    assert merged == whole


@cache
def real_texts() -> list[str]:
    files = sorted((ROOT / "examples/corpus").glob("*/train.jsonl.zst"))
    return [text for path in files for text in itertools.islice(read_documents(path), 100)]


def test_real_documents_with_the_published_lengths() -> None:
    """Sentences of the repository's own texts as items, found where they were cut from; verbatim and with changes."""
    texts = real_texts()
    draw = random.Random(1)
    items = []
    for text in draw.sample([text for text in texts if len(brute_force.words(text)) > 120], 24):
        found = brute_force.words(text)
        start = draw.randrange(len(found) - 60)
        cut = found[start : start + 40]
        items.append(" ".join(cut).upper())  # verbatim but for case and punctuation
        items.append(" ".join(word if place % 9 else "changed" for place, word in enumerate(cut)))  # eight in a row
        items.append(" ".join(draw.sample(cut, len(cut))))  # the same words in another order
    items += ["too short to tell", "which of the following is not one of these two"]
    rule = ContaminationRule()
    index = index_items(items_of(items), rule)
    chosen = draw.sample(texts, 60)
    findings = scan_texts([(TextPlace(0, number, "f"), text) for number, text in enumerate(chosen)], index)
    statuses = [findings.status_of(number, index) for number in range(len(items))]
    expected = [brute_force.status(item, chosen, rule, [], is_item=True) for item in items]
    assert statuses == expected
    everywhere = scan_texts([(TextPlace(0, number, "f"), text) for number, text in enumerate(texts)], index)
    assert {everywhere.status_of(number, index) for number in range(0, 72, 3)} == {"contaminated"}
    assert everywhere.status_of(72, index) == "unchecked"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"exact_words": 5, "overlap_words": 6}, r"overlap_words=6: at most exact_words=5"),
        ({"partial_share": 0.6}, r"partial_share=0.6: at most contaminated_share=0.5"),
        ({"contaminated_share": 0.0}, r"contaminated_share=0.0: must be above 0"),
    ],
)
def test_rules_that_cannot_be(values: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_plain(ContaminationRule, values)
