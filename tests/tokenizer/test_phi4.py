"""The Phi-4 tokenizer against tiktoken's own cl100k_base, on real text, hard text and random text."""

from __future__ import annotations

import functools
import gzip
import shutil
import time

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.data.text.documents import read_documents
from megaphi.errors import InputError
from megaphi.tokenizer import phi4
from megaphi.tokenizer.phi4 import cut_long_whitespace, load_tokenizer
from megaphi.tokenizer.rank_file import CACHE_FILE_NAME, find_rank_file, read_ranks
from tests.test_house import ROOT
from tests.tokenizer.official import official_cl100k, released_special_ids

HARD_TEXTS = [
    "",
    " ",
    "a  b   c\n\n\n d\t\te \r\n\r\n f",
    "I'm you'll WE'VE o'Clock 'S",
    "0 1234567 3.14159 １２３ ٣٤٥",
    "Žluťoučký kůň 語彙 👩‍👩‍👧‍👦 e\u0301 \u200d\u00a0\u3000x",
    "<|endoftext|> <|im_start|>user<|im_sep|> <|dummy_85|>",
    "x" * 5_000,
    "\x00\x01\x7f\x85\u2028",
    "trailing spaces   ",
]


@functools.cache
def full():
    return load_tokenizer()


@functools.cache
def small():
    return load_tokenizer(4_096)


def real_texts():
    for source in ("web", "code", "synthetic"):
        yield from list(read_documents(ROOT / f"examples/corpus/{source}/validation.jsonl.zst"))[:15]


def test_ids_of_the_released_model():
    """The table of phi-4's tokenizer_config.json."""
    ids = full().special_ids
    assert full().vocabulary_size == 100_352
    assert ids == released_special_ids()
    assert (ids["<|dummy_0|>"], ids["<|dummy_85|>"], ids["<|dummy_87|>"]) == (100_256, 100_349, 100_351)
    assert sorted(ids.values()) == list(range(100_256, 100_352))
    assert full().stop_tokens == {100_257, 100_265}
    assert full().pad == 100_349


def test_text_encodes_as_tiktoken_encodes_it():
    official = official_cl100k()
    for text in [*HARD_TEXTS, *real_texts()]:
        assert full().encode(text) == official.encode_ordinary(text)
        assert full().decode(full().encode(text)) == text


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_encodes_as_tiktoken_encodes_it_and_comes_back(text):
    assert full().encode(text) == official_cl100k().encode_ordinary(text)
    assert small().decode(small().encode(text)) == text


def test_what_spells_a_special_token_is_text():
    for text in ("<|endoftext|>", "<|im_end|>"):
        assert max(full().encode(text)) < 100_256
        assert full().decode([full().special_ids[text]]) == text


def test_batches_are_encoded_in_order():
    texts = [*HARD_TEXTS, *real_texts()] * 3
    assert full().encode_batch(texts, threads=4) == [full().encode(text) for text in texts]


@pytest.mark.parametrize("size", [352, 1_000, 8_192])
def test_a_small_vocabulary_is_the_first_ranks(size):
    tokenizer = load_tokenizer(size)
    assert list(tokenizer.ranks.items()) == list(read_ranks().items())[: size - 96]
    assert tokenizer.end_of_text == size - 95
    ranks_alone = tiktoken.Encoding(
        "alone", pat_str=official_cl100k()._pat_str, mergeable_ranks=tokenizer.ranks, special_tokens={}
    )
    for text in HARD_TEXTS:
        assert tokenizer.encode(text) == ranks_alone.encode_ordinary(text)
        assert all(token < size - 96 for token in tokenizer.encode(text))
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_fingerprints_tell_vocabularies_apart():
    assert small().fingerprint == load_tokenizer(4_096).fingerprint
    assert len({small().fingerprint, full().fingerprint, load_tokenizer(4_097).fingerprint}) == 3


def test_lone_surrogates_and_half_characters():
    assert full().encode("a\ud800b") == full().encode("a\ufffdb")
    assert full().decode(full().encode("語")[:1]) == "\ufffd"


@given(st.lists(st.sampled_from([" ", "\n", "\r", "\t", "\u2028", "x", "1", "!"]), max_size=40).map("".join))
@settings(max_examples=300, deadline=None)
def test_cutting_long_whitespace_changes_no_token(text):
    """With runs counted long from three characters on, instead of from 100,000."""
    pattern = phi4.re.compile(phi4._LONG_WHITESPACE_RUN.pattern.replace("100000", "3"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phi4, "_LONG_WHITESPACE_RUN", pattern)
        pieces = cut_long_whitespace(text)
    assert "".join(pieces) == text
    assert [token for piece in pieces for token in full().encode(piece)] == full().encode(text)


def test_a_million_spaces_do_not_crash():
    text = "start" + " " * 1_200_000 + "end"
    assert full().decode(full().encode(text)) == text


@pytest.mark.parametrize("size", [0, 351, 100_353])
def test_vocabularies_that_cannot_be(size):
    with pytest.raises(InputError, match=f"vocabulary_size {size} is out of range: choose 352 .* to 100352"):
        load_tokenizer(size)


@pytest.mark.parametrize("token", [-1, 4_096, 100_265])
def test_ids_of_another_vocabulary(token):
    with pytest.raises(InputError, match=f"token id {token} at position 1 is outside .* 4096"):
        small().decode([5, token])


def test_a_rank_file_with_a_wrong_hash(tmp_path):
    wrong = tmp_path / "cl100k_base.tiktoken"
    content = find_rank_file().read_bytes()
    wrong.write_bytes(content[:-3])
    with pytest.raises(InputError, match=r"is not the cl100k_base rank file: its SHA-256 is \w{64}, expected 223921b7"):
        load_tokenizer(352, ranks_file=wrong)
    wrong.write_bytes(gzip.compress(content)[:-3])
    with pytest.raises(InputError, match="cannot unpack the rank file"):
        load_tokenizer(352, ranks_file=wrong)
    with pytest.raises(InputError, match=r"cannot read the rank file .*missing: No such file"):
        load_tokenizer(352, ranks_file=tmp_path / "missing")


def test_where_the_rank_file_is_looked_for(tmp_path, monkeypatch):
    cached = tmp_path / CACHE_FILE_NAME
    packed = tmp_path / "packed.gz"
    shutil.copy(find_rank_file(), cached)
    packed.write_bytes(gzip.compress(cached.read_bytes()))
    assert read_ranks(packed, count=300) == read_ranks(count=300)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert find_rank_file() == cached
    assert find_rank_file(packed) == packed
    monkeypatch.setattr("megaphi.tokenizer.rank_file._package_folders", lambda package: [])
    cached.unlink()
    with pytest.raises(InputError, match=r"no cl100k_base rank file found .* Three ways .*TIKTOKEN_CACHE"):
        find_rank_file()


def test_a_long_run_of_one_letter_takes_time_in_proportion_to_it():
    """Linear is a ratio of 8, quadratic 64; in tiktoken 0.12 the longer one took a minute."""
    tokenizer = load_tokenizer()

    def seconds(letters: int) -> float:
        started = time.process_time()
        assert tokenizer.encode("a" * letters) == tokenizer.encode("a" * 64) * (letters // 64)
        return time.process_time() - started

    assert seconds(409_600) < 32 * min(seconds(51_200) for _ in range(3))
