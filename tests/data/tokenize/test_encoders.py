"""The fast encoder gives tiktoken's ids on anything; where it would not, tiktoken is asked or the run stops."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.data.tokenize import encoders as subject
from megaphi.data.tokenize.pipeline import tokenize_documents
from megaphi.data.tokenize.settings import TokenizeSettings
from megaphi.errors import InputError
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.test_house import ROOT

WORDS = "'s 'S 'ſ 'LL 've a B é e\u0301 語 한 😀 👩\u200d👩\u200d👧 \ufeff \ufffd \x00 _ ... = İ ı".split(" ")
WORDS += "ß ǅ ा 𝔘 ½ ² Ⅷ ٣ 12 3456 '".split(" ")
WORDS += [" ", "  ", "\n", "\r\n", "\t", "\xa0", "\u3000", "\u2028", "\x85", "\x1c", "<|endoftext|>", "<|fim_prefix|>"]
WORDS += ["\u088f", "\U000323b0", "\U00032501", "\ud800"]  # letters since Unicode 17, and half a pair
ANY_TEXT = st.one_of(
    st.text(st.characters(codec=None), max_size=60),
    st.lists(st.sampled_from(WORDS), max_size=40).map("".join),
    st.tuples(st.sampled_from(WORDS), st.integers(1, 700)).map(lambda pair: pair[0] * pair[1]),
)


@functools.cache
def doubtful():
    return subject.find_doubtful_characters("gigatoken")


@pytest.fixture(scope="module", params=[512, 20_000, 100_352])
def engines(request):
    tokenizer = load_tokenizer(request.param)
    return tokenizer, subject.open_encoder("gigatoken", tokenizer, doubtful=doubtful())


def test_any_text_gives_tiktokens_ids(engines):
    tokenizer, encode = engines

    @given(text=ANY_TEXT)
    @settings(max_examples=1_500, deadline=None)
    def check(text):
        assert encode(text).tolist() == tokenizer.encode(text)

    check()


def test_real_text_gives_tiktokens_ids(engines):
    """This repository: code, prose, and tables of characters; and runs that are slow or fatal elsewhere."""
    tokenizer, encode = engines
    texts = [path.read_text() for path in sorted((ROOT / "megaphi").rglob("*.py")) + sorted(ROOT.glob("*.md"))]
    texts += [" " * 1_200_000 + "x", "\n" * 300_000, "a" * 200_000, "".join(map(chr, range(0x20, 0xD800)))]
    for text in texts:
        assert np.array_equal(encode(text), tokenizer.encode_to_array(text)), text[:40]


def test_texts_with_doubtful_characters_go_to_tiktoken():
    """U+32501 is a letter since Unicode 17 only, so the engines split after it differently."""
    tokenizer = load_tokenizer()
    fast = subject._open_gigatoken(tokenizer)
    text = "\U00032501\U0006db24\ud6e5"
    assert fast(text).tolist() != tokenizer.encode(text)
    assert 0x32501 in doubtful()
    assert ord("語") not in doubtful()
    assert subject.open_encoder("gigatoken", tokenizer, doubtful=doubtful())(text).tolist() == tokenizer.encode(text)


def test_characters_of_which_a_wrong_engine_has_another_opinion_are_found():
    """An engine that takes Å for a symbol and 7 for a letter."""
    tokenizer = load_tokenizer()

    def wrong(text):
        return tokenizer.encode_to_array(text.replace("Å", "¤¤").replace("٧", "أأ"))

    assert set(subject.doubtful_characters(wrong, tokenizer)) == {ord("Å"), ord("٧")}


def test_a_spot_check_names_the_place():
    tokenizer = load_tokenizer(512)
    text = "the quick brown fox"
    ids = tokenizer.encode(text)
    subject.spot_check(text, ids, tokenizer, encoder="e", where="w")
    place = len(tokenizer.encode("the quick "))
    wrong = [*ids[:place], 0, *ids[place + 1 :]]
    with pytest.raises(InputError, match=r"doc 3: the encoder e .* from token \d+ on, at character 1\d: 'b?rown fox'"):
        subject.spot_check(text, wrong, tokenizer, encoder="e", where="doc 3")
    with pytest.raises(InputError, match=f"from token {len(ids)} on, at character {len(text)}: ''"):
        subject.spot_check(text, [*ids, 0], tokenizer, encoder="e", where="w")


@pytest.fixture
def texts():
    return [f"number {number} " * (number % 7) for number in range(600)]


def test_a_dataset_by_the_fast_encoder_has_the_same_tokens(tmp_path, source):
    for name in subject.ENCODERS:
        tokenize_documents(
            [source],
            tmp_path / name,
            TokenizeSettings(vocabulary_size=1_024, encoder=name),
            processes=1,
            show_progress=False,
        )
    for ending in (".bin", ".idx"):
        assert (tmp_path / f"tiktoken{ending}").read_bytes() == (tmp_path / f"gigatoken{ending}").read_bytes()
    assert '"encoder": "gigatoken"' in (tmp_path / "gigatoken.json").read_text()


def test_an_encoder_that_errs_stops_the_run(tmp_path, source, monkeypatch):
    tokenizer = load_tokenizer(1_024)
    monkeypatch.setattr(subject, "doubtful_characters", lambda *_: ())
    monkeypatch.setattr(subject, "_open_gigatoken", lambda _: lambda text: tokenizer.encode_to_array(text)[:-1])
    with pytest.raises(InputError, match=r"document 256 of the shard that begins with .*a\.jsonl.* --encoder tiktoken"):
        tokenize_documents(
            [source],
            tmp_path / "d",
            TokenizeSettings(vocabulary_size=1_023, encoder="gigatoken"),
            processes=1,
            show_progress=False,
        )
    assert not (tmp_path / "d.idx").exists()


def test_encoders_that_are_not_there(tmp_path, source, monkeypatch):
    with pytest.raises(InputError, match="no encoder 'x': choose one of tiktoken, gigatoken"):
        tokenize_documents([source], tmp_path / "d", TokenizeSettings(encoder="x"), show_progress=False)
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    with pytest.raises(InputError, match=r"pip install megaphi\[fast-tokenizer\]"):
        subject.find_doubtful_characters("gigatoken")
