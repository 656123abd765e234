"""Corrupted text: each sign on texts that have it and texts that only look so; statistics from a small clean corpus."""

from __future__ import annotations

import codecs
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.cli import main
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.filter.corruption import signs
from megaphi.curation.filter.corruption.corruption import Corruption
from megaphi.curation.filter.corruption.statistics import (
    bits_of,
    count_text,
    read_statistics,
    window_bits,
    windows,
)
from megaphi.curation.step import StepContext
from megaphi.errors import InputError

WORDS = (
    "the of and to in is that for it as was with be by on not he this are or his from at which but have an had they "
    "you were there one all we can her has been their more if will would about when who them no time out some into "
    "could water people number function system value method result theory language different without another"
).split()


def prose(seed: int, *, length: int = 4_000) -> str:
    draw, text = random.Random(seed), ""
    while len(text) < length:
        text += " ".join(draw.choice(WORDS) for _ in range(draw.randrange(5, 15))).capitalize() + draw.choice(". \n")
    return text[:length]


def look(text: str, **settings: Any) -> Outcome:
    context = StepContext(folder=Path(), open_sampler=lambda name: pytest.fail(name))
    found = Corruption(**settings).open(context)(Document(id="1", source="s", place="p", text=text))
    assert isinstance(found, Document | Rejected)
    return found


def reason(text: str, **settings: Any) -> str:
    found = look(text, **settings)
    return found.reason if isinstance(found, Rejected) else "kept"


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("statistics")
    lines = [json.dumps({"text": prose(seed), "metadata": {"language": "en"}}) for seed in range(40)]
    (folder / "clean.jsonl").write_text("\n".join(lines))
    words = ["curate", "train-statistics", str(folder / "clean.jsonl"), "--language-key", "metadata.language"]
    assert main([*words, "--output", str(folder / "clean.safetensors")]) == 0
    return str(folder / "clean.safetensors")


FRENCH = "Élève à l'école, où le garçon a reçu des leçons très variées ; l'œuvre coûte 5 €. « Ça va ? » "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (prose(1), "kept"),
        (FRENCH * 12 + prose(1), "kept"),
        (prose(1) + "\ufffd" * 20, "broken_characters"),
        (prose(1) + "\x01\x02" * 10, "broken_characters"),
        (FRENCH.encode().decode("latin-1") * 12 + prose(1), "broken_characters"),
        (FRENCH.replace("À", "").encode().decode("cp1252", "ignore") * 12 + prose(1), "mojibake"),
        (prose(1) + "TWFuIGlzIGRpc3Rpbmd1aXNoZWQsIG5vdCBvbmx5IGJ5IGhpcyByZWFzb24s" * 40, "encoded_data"),
        (prose(1) + "The same line again and again.\n" * 100, "repeated_lines"),
        (prose(1) + "a" * 4_000, "repeated_sign"),
        (prose(1) + "-" * 300, "kept"),
        (prose(1).replace("a", "4").replace("i", "1"), "garbled_words"),
        ("T h e  w a t e r  i s  c o l d  " * 60, "garbled_words"),
        ("again and again we say " * 400, "compresses_too_well"),
        ("".join(random.Random(3).choices("abcdefghijklmnopqrstuvwxyz .,ABCDEFGH", k=4_000)), "compresses_too_little"),
        ("", "kept"),
        ("A short one.", "kept"),
    ],
)
def test_each_kind_has_its_reason(text: str, expected: str) -> None:
    assert reason(text) == expected


def test_statistics_find_what_rules_do_not(statistics: str) -> None:
    shifted = codecs.encode(prose(2), "rot13")  # compresses as well as before
    assert reason(prose(100), statistics=statistics) == "kept"
    assert reason(shifted) == "kept"
    assert reason(shifted, statistics=statistics) == "unlikely_ngrams"
    half = prose(2, length=3_000) + shifted[:1_000]
    assert reason(half, statistics=statistics) == "unlikely_ngrams"
    assert reason(half, statistics=statistics, maximum_odd_windows=0.3) == "kept"


def test_statistics_are_read_as_written(statistics: str) -> None:
    made = count_text([prose(seed) for seed in range(40)])
    read = read_statistics(statistics)["en"]
    assert np.array_equal(read.counts, made.counts)
    assert np.array_equal(read.followers, made.followers)
    assert (read.total, read.bits, read.ratio) == (made.total, made.bits, made.ratio)
    assert 1 < made.bits < 5


def test_bits_are_those_of_a_plain_count() -> None:
    """Recount with dictionaries of strings: hashes of so few n-grams collide hardly ever."""
    texts = [prose(seed) for seed in range(40)]
    made = count_text(texts)
    counts: dict[str, int] = {}
    followers: dict[str, set[str]] = {}
    for text in (text for place, text in enumerate(texts) if place % 5):
        plain = "   " + text.replace("\n", " ")
        for end in range(3, len(plain)):
            for size in range(1, 5):
                gram = plain[end - size + 1 : end + 1]
                counts[gram] = counts.get(gram, 0) + 1
                followers.setdefault(gram[:-1], set()).add(gram[-1])
    total = sum(count for gram, count in counts.items() if len(gram) == 1)
    sample = prose(200, length=600).replace("\n", " ")

    def share(gram: str) -> float:
        if not gram:
            return 1 / 65_536
        context = counts.get(gram[:-1], 0) if len(gram) > 1 else total
        different = len(followers.get(gram[:-1], ()))
        seen = min(counts.get(gram, 0), context)
        return (seen + (different + 1) * share(gram[1:])) / (context + different + 1)

    expected = [-np.log2(share(("   " + sample)[end - 3 : end + 1])) for end in range(3, len(sample) + 3)]
    differences = np.abs(bits_of(sample, made)[3:] - expected[3:])
    assert np.mean(differences < 1e-9) > 0.9  # the rest are collisions
    assert np.mean(differences) < 0.05


@settings(max_examples=60)
@given(st.text(max_size=100))
def test_no_text_breaks_the_measures(text: str) -> None:
    for measure in (signs.broken_share, signs.mojibake_share, signs.run_share, signs.repeated_line_share):
        assert 0 <= measure(text) <= 1
    assert signs.garbled_share(text) >= 0


@given(st.text(st.characters(min_codepoint=0xA1, max_codepoint=0x7FF), min_size=1, max_size=40))
def test_what_was_read_as_windows_1252_is_found(text: str) -> None:
    found = text.encode().decode("latin-1")
    assert signs.mojibake_share(found) == 1


def test_windows_cover_the_text() -> None:
    assert [len(part) for part in windows("a" * 2_600)] == [1_000, 1_000, 600]
    assert windows("a" * 499) == []
    made = count_text([prose(seed) for seed in range(30)])
    assert len(window_bits("a" * 2_600, made)) == 3


def test_files_that_are_none_are_refused(tmp_path: Path, statistics: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="not found"):
        read_statistics(str(tmp_path / "none"))
    (tmp_path / "page").write_text("<html>")
    with pytest.raises(InputError, match="damaged"):
        read_statistics(str(tmp_path / "page"))
    content = Path(statistics).read_bytes()
    (tmp_path / "cut").write_bytes(content[:-100])
    with pytest.raises(InputError, match="damaged"):
        read_statistics(str(tmp_path / "cut"))
    (tmp_path / "few.jsonl").write_text('{"text": "a"}\n{"text": 5}\n')
    words = ["curate", "train-statistics", str(tmp_path / "few.jsonl"), "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "few.jsonl:2: no text" in capsys.readouterr().err
    (tmp_path / "few.jsonl").write_text('{"text": "a"}\n')
    assert main(words) == 2
    assert "language 'en': 0 windows" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
