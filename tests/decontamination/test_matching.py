"""Words, n-grams and matches against a second implementation in plain Python, on random and on real text."""

from __future__ import annotations

import itertools
import pickle
import random
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megaphi.config import from_plain
from megaphi.data.text.documents import read_documents
from megaphi.decontamination.findings import TextPlace, scan_texts
from megaphi.decontamination.item_index import BenchmarkItem, ItemIndex, index_items
from megaphi.decontamination.matching import match_text
from megaphi.decontamination.rule import ContaminationRule
from megaphi.decontamination.words import STANDS_ALONE, characters, form_of, kind_of, words_of
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


@given(text=st.one_of(TEXTS, st.text(), st.text(alphabet="aeΣσς.' \u0301\u0323\u1161\u11a8가각ｶﾞİ中ก็"), st.characters()))
@example(text="a\ud800b")
@example(text="ํ a")
@example(text="ก็a")
@example(text="中ํ文x中")
@example(text="ΟΔΟΣ. ΑΣ'Β ᾼΣ")
@example(text="e\u0301\u0323 \u00e9\u0323 \u1e69 s\u0323\u0307")
@settings(max_examples=600, deadline=None)
def test_words_are_those_of_the_definition(text: str) -> None:
    assert words_of(text) == list(brute_force.words(text))


def test_every_character_in_its_neighbourhood() -> None:
    """All characters of Unicode, beside letters and each other: forms that were asked for once are right anywhere."""
    assigned = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in ("Cn", "Co")]
    draw = random.Random(5)
    for _ in range(2):
        draw.shuffle(assigned)
        text = "".join(one + draw.choice(("", "", "a", "É", " ", "가", "中")) for one in assigned)
        for start in range(0, len(text), 7):
            piece = text[start : start + 7]
            assert words_of(piece) == unfolded(piece), piece


def unfolded(text: str) -> list[str]:
    return list(brute_force.words.__wrapped__(text))


def test_the_scripts_without_blanks_are_those_of_unicode() -> None:
    """By the names of all characters; fails when a newer Unicode adds letters outside the blocks."""
    differing = [
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if (kind_of(character) == STANDS_ALONE) != brute_force.stands_alone(character)
        and unicodedata.normalize("NFKC", character) == character
    ]
    assert differing == []


def test_characters_that_join_the_one_before_them_are_known() -> None:
    """Fails when a newer Unicode composes characters beyond the planes that are searched."""
    for code in range(sys.maxunicode + 1):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            assert form_of(chr(int(parts[1], 16))) is None, hex(code)


def test_threads_may_read_words_at_once() -> None:
    """The GIL is released over long texts of ASCII and Latin letters."""
    texts = [draw * 300_000 for draw in ("éa Cat. ", "ab cé-D ", "x 中文 y ")]
    expected = [characters().run_hash(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(characters().run_hash, texts * 4)) == expected * 4


def test_hashes_of_real_words_do_not_agree_by_chance() -> None:
    texts = real_texts()
    read = characters()
    words = {word for text in texts for word in brute_force.words(text)}
    assert len({read.run_hash(word)[0] for word in words}) == len(words) > 5_000
    joined = "\n".join(texts)
    runs = {*brute_force.grams(joined, 13)}
    hashes = read.smallest_runs(joined, 13, 10**9)
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
    for text in texts:
        matches = match_text(text, index)
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
