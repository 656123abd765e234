"""Near-duplicates: signatures against the similarity that they estimate, clusters against brute force, any shards."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.compiled.module import compiled
from megaphi.config import from_plain
from megaphi.curation.deduplicate.decisions import DocumentIds
from megaphi.curation.deduplicate.keys import write_keys
from megaphi.curation.deduplicate.near import NearDuplicates
from megaphi.curation.deduplicate.signatures import Signatures, band_keys, whole_keys
from megaphi.curation.document import Rejected
from megaphi.curation.step import JointStep
from megaphi.decontamination.words import characters
from megaphi.errors import InputError, RunFailed
from tests.curation.deduplicate.shards import documents, outcomes
from tests.decontamination import brute_force

STEP = NearDuplicates()
VOCABULARY = [a + b + c for a in "bdfgk" for b in "aeiou" for c in "lmnrst"] + ["中", "é", "ü", "ß"]
GOLDEN = [2213086670, 2002683755, 2010918997, 1944710306]
"""Four positions of a sentence of ten words."""


def page(draw: random.Random, words: int) -> list[str]:
    return draw.choices(VOCABULARY, k=words)


def edited(draw: random.Random, words: list[str], share: float) -> list[str]:
    return [draw.choice(VOCABULARY) if draw.random() < share else word for word in words]


def signature(text: str, size: int = 112, words: int = 5) -> np.ndarray:
    out = np.zeros(size, np.uint32)
    assert characters().sign(text, words=words, out=out)
    return out


def kept(step: NearDuplicates, texts: list[str], shards: int = 1, **metadata: list[float | None]) -> list[str | None]:
    """For each text the id of the one that is kept in its place; None: it is kept itself."""
    found = outcomes(step, documents(texts, **metadata), shards=shards)
    return [one.detail.removeprefix("nearly the same as ") if isinstance(one, Rejected) else None for one in found]


@pytest.mark.parametrize(("words", "share"), [(400, 0.01), (400, 0.05), (60, 0.05), (400, 0.15), (12, 0.1)])
def test_signatures_agree_as_often_as_the_texts_are_similar(words: int, share: float) -> None:
    """Without bias, and with the spread of independent draws: the promise of Fast Similarity Sketching."""
    draw = random.Random(words)
    errors = []
    for _ in range(150):
        left = page(draw, words)
        one, other = " ".join(left), " ".join(edited(draw, left, share))
        runs = brute_force.different(one, 5), brute_force.different(other, 5)
        similarity = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
        agreement = float((signature(one) == signature(other)).mean())
        spread = max(1e-9, similarity * (1 - similarity) / 112) ** 0.5
        errors.append((agreement - similarity) / spread if similarity < 1 else agreement - 1.0)
    assert abs(np.mean(errors)) < 0.35
    assert np.std(errors) < 1.25


def test_signatures_are_the_same_in_every_version() -> None:
    """Golden values: signatures of earlier runs are compared with new ones."""
    assert signature("The quick brown fox jumps over the lazy dog, twice.", 4).tolist() == GOLDEN
    assert signature("the QUICK (brown) fox\njumps over the lazy dog twice", 4).tolist() == GOLDEN
    assert not characters().sign(" -- \n", words=5, out=np.zeros(4, np.uint32))
    assert (signature("two words") == signature("Two... words!")).all()
    assert (signature("two words") != signature("words two")).all()


def test_edited_copies_are_found_and_others_are_not() -> None:
    draw = random.Random(2)
    pages = [page(draw, 300) for _ in range(150)]
    texts = [" ".join(words) for words in pages]
    copies = [" ".join(edited(draw, words, 0.01)) for words in pages[:50]]
    found = kept(STEP, texts + copies)
    assert found[:150] == [None] * 150
    assert sum(one == f"d{number}" for number, one in enumerate(found[150:])) >= 48
    assert sum(one not in (None, f"d{number}") for number, one in enumerate(found[150:])) == 0


@given(seed=st.integers(0, 10**6), shards=st.integers(2, 9), memory=st.sampled_from([1, 64]))
@settings(max_examples=8, deadline=None)
def test_shards_and_memory_change_nothing(seed: int, shards: int, memory: int) -> None:
    draw = random.Random(seed)
    pages = [page(draw, draw.choice((0, 1, 4, 30, 80))) for _ in range(12)]
    chosen = [edited(draw, draw.choice(pages), draw.choice((0.0, 0.01, 0.03))) for _ in range(40)]
    texts = [" ".join(words) for words in chosen]
    quality = [draw.choice((None, 1.0, 2.0)) for _ in texts]
    for step in (STEP, NearDuplicates(bands=8, rows=3, similarity=0.5, best_by="quality")):
        one = kept(step, texts, quality=quality)
        assert kept(replace(step, memory_megabytes=memory), texts, shards, quality=quality) == one


def test_clusters_are_the_connected_parts_of_all_links() -> None:
    """Against union over all pairs by brute force, with links of signatures that agree in some band."""
    draw = random.Random(11)
    chain = [page(draw, 60)]
    for _ in range(12):
        chain.append(edited(draw, chain[-1], 0.02))
    texts = [" ".join(words) for words in [*chain, *(page(draw, 60) for _ in range(10))]]
    draw.shuffle(texts)
    step = NearDuplicates(bands=20, rows=3, similarity=0.0)
    signed = [signature(text, 60).reshape(20, 3) for text in texts]
    names = list(range(len(texts)))
    for _ in names:  # the smallest name goes from each to all that it is linked to, as often as it can matter
        for left in range(len(texts)):
            for right in range(left):
                if (signed[left] == signed[right]).all(axis=1).any():
                    names[left] = names[right] = min(names[left], names[right])
    found = kept(step, texts)
    assert [number if one is None else int(one[1:]) for number, one in enumerate(found)] == names
    assert len(set(names)) == 11, "the chain is one cluster, though its ends have little in common"


def decided(step: NearDuplicates, rows: np.ndarray, folder: Path) -> list[bool]:
    """For each signature whether its document is kept."""
    (folder / "out").mkdir(parents=True)
    write_gathered(folder, rows)
    step.decide([folder], folder / "out")
    return np.unpackbits(np.fromfile(folder / "out/000000/is_kept", np.uint8))[: len(rows)].astype(bool).tolist()


def test_links_are_checked_with_the_first_and_with_the_one_before(tmp_path: Path) -> None:
    """Signatures that agree in one band; the last two also in most of the others, with the first or the second."""
    draw = np.random.default_rng(4)
    first, second = draw.integers(0, 2**32, (2, 112), dtype=np.uint32)
    second[:8] = first[:8]
    like_first, like_second = first.copy(), second.copy()
    like_first[[8 * band + 8 for band in range(13)]] += 1  # 13 of 112 positions: no other band is left
    like_second[[8 * band + 8 for band in range(13)]] += 1
    assert decided(STEP, np.stack([first, second]), tmp_path / "a") == [True, True]
    assert decided(replace(STEP, similarity=0.0), np.stack([first, second]), tmp_path / "b") == [True, False]
    assert decided(STEP, np.stack([first, second, like_first]), tmp_path / "c") == [True, True, False]
    assert decided(STEP, np.stack([first, second, like_second]), tmp_path / "d") == [True, True, False]
    assert decided(replace(STEP, similarity=0.9), np.stack([first, second, like_second]), tmp_path / "e") == [True] * 3


def test_the_best_is_kept() -> None:
    text = "one two three four five six seven eight nine"
    texts = [text, f"{text}!", text, "something else altogether that is not any of these"]
    assert kept(STEP, texts) == [None, "d0", "d0", None]
    step = NearDuplicates(best_by="quality")
    assert kept(step, texts, quality=[None, 0.5, 0.9, 0.1]) == ["d2", "d2", None, None]
    assert kept(step, texts, quality=[None, None, None, None]) == [None, "d0", "d0", None]
    assert kept(step, texts, quality=[float("nan"), 0.9, 0.9, None]) == ["d1", None, "d1", None]


def test_documents_of_an_earlier_run_are_kept(tmp_path: Path) -> None:
    old, new = "one two three four five six seven", "eight nine ten eleven twelve thirteen"
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    outcomes(STEP, documents([old, "of the old run alone, and of no other"]), gathered=earlier, shards=2)
    step = NearDuplicates(earlier=(str(earlier),), best_by="quality")
    found = outcomes(step, documents([new, old, f"{new}."], quality=[1.0, 9.0, 2.0]))
    assert [isinstance(one, Rejected) for one in found] == [True, True, False]
    assert isinstance(found[1], Rejected)
    assert found[1].detail == "nearly the same as d0"
    with pytest.raises(InputError, match=r"gathered-0 was gathered with other settings than .*'bands': 9"):
        outcomes(NearDuplicates(bands=9, earlier=(str(earlier),)), documents([new]))
    with pytest.raises(InputError, match="no near-duplicates were gathered there"):
        outcomes(NearDuplicates(earlier=(str(tmp_path / "none"),)), documents([new]))


def test_no_documents_no_words_and_documents_in_another_order(tmp_path: Path) -> None:
    assert isinstance(STEP, JointStep)
    assert outcomes(STEP, []) == []
    assert kept(STEP, ["", "", "...", "a"], shards=3) == [None] * 4
    given = documents(["a b", "c d"])
    outcomes(STEP, given, gathered=tmp_path)
    with pytest.raises(RunFailed, match=r"document 0 of a shard, d1, is not the one"):
        STEP.open_decided(tmp_path / "decisions", 0)(given[1])
    with pytest.raises(InputError, match=r"bands"):
        from_plain(NearDuplicates, {"bands": 0})


def test_memory_is_bounded_while_many_documents_are_decided(tmp_path: Path) -> None:
    """50,000 documents with a common key in one band each: keys of a band take more than what sorting may."""
    count, size = 50_000, STEP.bands * STEP.rows
    draw = np.random.default_rng(1)
    rows = draw.integers(0, 2**32, (count, size), dtype=np.uint32)
    rows[count // 2 :, : STEP.rows] = rows[: count // 2, : STEP.rows]
    folders = [tmp_path / str(shard) for shard in range(4)]
    for shard, folder in enumerate(folders):
        folder.mkdir()
        write_gathered(folder, rows[shard * count // 4 : (shard + 1) * count // 4])
    peaks = []
    for megabytes in (1, 1024):
        output = tmp_path / f"out-{megabytes}"
        output.mkdir()
        tracemalloc.start()
        replace(STEP, memory_megabytes=megabytes).decide(folders, output)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    assert peaks[0] < 12, "9 bytes of 50,000 documents, two times 4 MB of signatures, and sorting"
    assert peaks[1] > 1.2 * peaks[0], "so the setting is what bounds it"


def write_gathered(folder: Path, rows: np.ndarray) -> None:
    with DocumentIds(folder) as ids:
        for document in documents([""] * len(rows)):
            ids.add(document)
    rows.tofile(folder / "signatures")
    np.ones(len(rows), bool).tofile(folder / "has_words")
    signed = Signatures.open(folder, size=rows.shape[1])
    write_keys(folder, "whole", whole_keys(signed), signed.row_D)
    for band in range(STEP.bands):
        write_keys(folder, f"band_{band:03d}", band_keys(signed, band=band, rows=STEP.rows), signed.row_D)


@given(links=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_the_order_of_links_changes_no_cluster(links: list[tuple[int, int]], seed: int) -> None:
    def clusters(pairs: list[tuple[int, int]]) -> list[int]:
        parents = np.arange(31)
        ends = np.array(pairs, np.int64).reshape(-1, 2)
        compiled().link_members(parents, np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1]))
        compiled().point_to_roots(parents)
        return parents.tolist()

    shuffled = [(right, left) for left, right in links]
    random.Random(seed).shuffle(shuffled)
    assert clusters(links) == clusters(shuffled)
    assert all(clusters(links)[left] == clusters(links)[right] for left, right in links)
    with pytest.raises(IndexError):
        clusters([(0, 31)])
