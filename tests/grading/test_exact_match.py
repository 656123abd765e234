"""Texts compared as SQuAD and TriviaQA compare them, numerals by value, and nothing that is merely similar."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from megaphi.grading.exact_match import grade_exact_match, normalised
from megaphi.grading.question import ExactAnswers

SAME = [
    ("The Beatles", "beatles"),
    ("The Beatles", "The Beatles."),
    ("Sunset Boulevard", "Answer: sunset boulevard"),
    ("Sunset Boulevard", "I know that film.\nThe answer is Sunset Boulevard."),
    ("St. John's", "st johns"),
    ("rock-and-roll", "Rock and Roll"),
    ("Ａｄａ", "ada"),
    ("ﬁnland", "Finland"),
    ("STRASSE", "straße"),
    ("1,000", "1000"),
    ("2.50", "2.5"),
    ("$7", "7"),
    ("-3", "−3"),
    ("0", "-0.0"),
    ("A", "a"),
    ("The The", "the the"),
    ("42", "\\boxed{42}"),
    ("Paris", "\\boxed{\\text{Paris}}"),
]


@pytest.mark.parametrize(("key", "answer"), SAME)
def test_the_same(key: str, answer: str) -> None:
    assert grade_exact_match(ExactAnswers((key,)), answer).outcome == "right"


OTHER = [
    ("Paris", "Parish"),
    ("Paris", "Paris, Texas"),
    ("Paris", "It might be London or Paris."),
    ("1000", "1,001"),
    ("2.5", "25"),
    ("-3", "3"),
    ("1969", "69"),
    ("Paris", ""),
    ("Paris", "the"),
    ("Müller", "Muller"),
]


@pytest.mark.parametrize(("key", "answer"), OTHER)
def test_not_the_same(key: str, answer: str) -> None:
    assert grade_exact_match(ExactAnswers((key,)), answer).outcome == "wrong"


def test_any_alias_is_right_and_is_named() -> None:
    verdict = grade_exact_match(ExactAnswers(("David Bowie", "Bowie", "David Robert Jones")), "bowie")
    assert (verdict.outcome, verdict.reason) == ("right", "it is 'Bowie'")


@given(st.text(max_size=60))
@example("00:")
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == once


@given(st.text(st.characters(categories=["L", "N", "Zs"]), max_size=30))
def test_case_punctuation_and_articles_do_not_matter(text: str) -> None:
    assume(set(normalised(text.upper()).split()) - {"a", "an", "the"})
    assert normalised(f"  The, {text.upper()}! ") == normalised(text.upper()) or normalised(text).isnumeric()


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_numerals_are_equal_by_value(one: int, other: int) -> None:
    assert (normalised(f"{one:,}") == normalised(f"{other}.0")) == (one == other)
