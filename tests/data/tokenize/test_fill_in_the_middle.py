"""Fill in the middle: nothing is lost, the shares are those asked for, the dice are the text's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.data.tokenize.fill_in_the_middle import MIDDLE, PREFIX, SUFFIX, FillInTheMiddle, rearrange
from megaphi.errors import InputError
from megaphi.tokenizer.special_tokens import special_token_ids

ANY_TEXT = st.text(st.characters(codec=None))


def put_back(parts):
    """The document that rearranged parts stand for, by their sentinels alone."""
    names = [part.sentinel for part in parts]
    texts = [part.text for part in parts]
    if names == [None]:
        return texts[0]
    if names == [PREFIX, SUFFIX, MIDDLE]:  # PSM
        prefix, suffix, middle = texts
        return prefix + middle + suffix
    assert names == [PREFIX, SUFFIX, MIDDLE, None]  # SPM
    empty, suffix, prefix, middle = texts
    assert empty == ""
    return prefix + middle + suffix


@given(text=ANY_TEXT, rate=st.floats(0, 1), spm_rate=st.floats(0, 1), seed=st.integers(0, 2**64 - 1))
def test_the_text_comes_back_and_the_same_text_is_cut_alike(text, rate, spm_rate, seed):
    settings = FillInTheMiddle(rate=rate, spm_rate=spm_rate, seed=seed)
    parts = rearrange(text, settings)
    assert put_back(parts) == text
    assert rearrange(text, settings) == parts


@pytest.mark.parametrize(("rate", "spm_rate"), [(0.5, 0.5), (0.9, 0.1)])
def test_shares_are_those_asked_for(rate, spm_rate):
    """Within 4.5 standard deviations of a binomial (it is deterministic: this draw was looked at once)."""
    documents = 20_000
    counts = {1: 0, 3: 0, 4: 0}
    for number in range(documents):
        counts[len(rearrange(f"document {number}", FillInTheMiddle(rate=rate, spm_rate=spm_rate)))] += 1
    for share, count in ((1 - rate, counts[1]), (rate * (1 - spm_rate), counts[3]), (rate * spm_rate, counts[4])):
        assert abs(count - documents * share) < 4.5 * (documents * share * (1 - share)) ** 0.5


def test_cuts_are_uniform_over_the_places_between_characters():
    """A text of 3 characters has 4 places, so 16 ordered pairs of cuts; chi square with 9 kinds of split."""
    counts = {}
    for seed in range(16_000):
        parts = rearrange("日b語", FillInTheMiddle(rate=1, spm_rate=0, seed=seed))
        lengths = (len(parts[0].text), len(parts[2].text))
        counts[lengths] = counts.get(lengths, 0) + 1
    expected = {(first, 0): 1_000 for first in range(4)}
    expected |= {(first, second - first): 2_000 for first in range(4) for second in range(first + 1, 4)}
    assert set(counts) == set(expected)
    assert sum((counts[key] - want) ** 2 / want for key, want in expected.items()) < 30  # 9 degrees: 1 in 2,000


def test_rates_of_zero_and_one_and_seeds():
    texts = [f"text {number}" for number in range(100)]
    assert all(len(rearrange(text, FillInTheMiddle(rate=0))) == 1 for text in texts)
    assert all(len(rearrange(text, FillInTheMiddle(rate=1, spm_rate=1))) == 4 for text in texts)
    assert all(len(rearrange(text, FillInTheMiddle(rate=1, spm_rate=0))) == 3 for text in texts)
    one, other = ([rearrange(text, FillInTheMiddle(rate=0.5, seed=seed)) for text in texts] for seed in (1, 2))
    assert one != other


def test_the_sentinels_are_phi4s():
    assert [special_token_ids()[name] for name in (PREFIX, MIDDLE, SUFFIX)] == [100_258, 100_259, 100_260]


@pytest.mark.parametrize("wrong", [{"rate": 1.5}, {"rate": 0.5, "spm_rate": -0.1}, {"rate": 0.5, "seed": -1}])
def test_what_is_no_share_is_refused(wrong):
    with pytest.raises(InputError, match="fill in the middle"):
        FillInTheMiddle(**wrong)
