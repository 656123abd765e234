"""nDCG against trec_eval and against all orders, ROUGE-L against rouge_score, found texts against cases."""

from __future__ import annotations

import itertools
import math

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from megaphi.evaluation.tasks.long_context.metrics import is_found, ndcg, rouge_l, word_f1

ROUGE = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=25), st.randoms(use_true_random=False), st.data())
def test_ndcg_is_that_of_trec_eval(grades: list[int], draw: object, data: st.DataObject) -> None:
    relevance = {f"d{place}": grade for place, grade in enumerate(grades)}
    order = data.draw(st.permutations(sorted(relevance)))
    ranking = order[: data.draw(st.integers(1, len(order)))]
    run = {"q": {name: float(len(ranking) - place) for place, name in enumerate(ranking)}}
    found = pytrec_eval.RelevanceEvaluator({"q": relevance}, {"ndcg_cut.10"}).evaluate(run)["q"]["ndcg_cut_10"]
    assert ndcg(relevance, ranking) == pytest.approx(found, abs=1e-12)


def test_the_gain_is_linear_and_the_best_order_is_one() -> None:
    relevance = {"a": 3, "b": 1, "c": 0}
    assert ndcg(relevance, ["b", "a"]) == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))
    scores = {order: ndcg(relevance, order) for order in itertools.permutations("abc")}
    assert max(scores.values()) == scores["a", "b", "c"] == 1
    assert ndcg(relevance, []) == ndcg({"a": 0}, ["a"]) == 0


WORDS = st.lists(st.sampled_from(["the", "Cat", "cat-nap", "sat.", "on", "mat", "1,000", "a_b", "\n"]), max_size=30)


@given(WORDS.map(" ".join), WORDS.map(" ".join))
def test_rouge_l_is_that_of_rouge_score(text: str, answer: str) -> None:
    assert rouge_l([text], answer) == pytest.approx(ROUGE.score(text, answer)["rougeL"].fmeasure, abs=1e-12)


def test_rouge_l_takes_the_nearest_text_and_counts_words_of_every_script() -> None:
    assert rouge_l(["nothing", "дом стоит там"], "дом там") == pytest.approx(0.8)
    assert rouge_l(["дом"], "мир") == rouge_l(["x"], "") == 0


@pytest.mark.parametrize(
    ("texts", "answer", "expected"),
    [
        (["Paris"], "It is Paris.", True),
        (["the Answer"], "answer", True),
        (["2"], "in 1992", False),
        (["2"], "2.", True),
        (["New York", "NYC"], "nyc it is", True),
        (["New York"], "York is new", False),
        (["1,000"], "about 1000 people", True),
        (["well-known"], "a well known one", True),
        (["ﬁne"], "fine", True),
        (["!"], "anything!", False),
        (["the"], "the", False),
        (["x"], "", False),
    ],
)
def test_a_text_is_found_by_whole_words(texts: list[str], answer: str, expected: bool) -> None:
    assert is_found(texts, answer) is expected


def test_words_are_counted_as_often_as_both_have_them() -> None:
    assert word_f1(["red red car"], "red car car") == pytest.approx(2 / 3)
    assert word_f1(["red", "blue car"], "a blue car") == 1
    assert word_f1(["red"], "") == 0
