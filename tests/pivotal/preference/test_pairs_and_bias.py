"""Pairs from scores, and the biases of a judge: against scipy, properties, and intervals that must cover."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from megaphi.errors import InputError
from megaphi.pivotal.preference.bias import rank_correlation, share, spearman
from megaphi.pivotal.preference.judging import Judgement
from megaphi.pivotal.preference.pairs import JudgedPair, PairRule, pair_of_orders, pairs_of_scores, score_of
from megaphi.pivotal.preference.record_files import MissingItems
from megaphi.pivotal.preference.responses import Response


def response(number: int, text: str = "text") -> Response:
    return Response(name=f"q/0/{number}", prompt=0, model="m", text=text, tokens=1, is_whole=True)


def scored(*scores: int) -> Judgement:
    accuracy, style, detail = scores
    return Judgement(faults=(), accuracy=accuracy, style=style, detail=detail)


def pairs(
    rule: PairRule, *judged: tuple[Response, Judgement], seed: int = 0
) -> tuple[list[JudgedPair], dict[str, int]]:
    left_out = MissingItems()
    return pairs_of_scores(judged, rule, seed=seed, left_out=left_out), dict(left_out.counts)


A, B, C = response(0, "aaaa"), response(1, "bb"), response(2, "c")


def test_accuracy_or_the_mean_decides() -> None:
    judged = [(A, scored(4, 1, 1)), (B, scored(3, 5, 5))]
    for by, chosen in (("accuracy", A), ("overall", B)):
        (pair,), left_out = pairs(PairRule(by=by), *judged)  # pyright: ignore[reportArgumentType]
        assert (pair.chosen, left_out) == (chosen, {})
        assert pair.difference == pytest.approx(1 if by == "accuracy" else 7 / 3)


def test_a_margin_and_ties_are_counted() -> None:
    judged = [(A, scored(4, 3, 3)), (B, scored(3, 3, 3))]
    assert pairs(PairRule(margin=2), *judged) == ([], {"the difference is below the margin": 1})
    assert len(pairs(PairRule(margin=1), *judged)[0]) == 1
    tied = [(A, scored(4, 3, 3)), (B, scored(4, 5, 3))]
    assert pairs(PairRule(), *tied) == ([], {"a tie": 1})
    for ties in ("overall", "shorter"):
        (pair,), _ = pairs(PairRule(ties=ties), *tied)  # pyright: ignore[reportArgumentType]
        assert (pair.chosen, pair.broken_tie, pair.difference) == (B, True, 0.0)
    same = [(A, scored(4, 3, 3)), (response(1, "four"), scored(4, 3, 3))]
    assert pairs(PairRule(ties="overall"), *same) == ([], {"a tie": 1})
    assert pairs(PairRule(ties="shorter"), *same) == ([], {"a tie": 1})


def test_extremes_or_every_two() -> None:
    judged = [(A, scored(2, 3, 3)), (B, scored(5, 3, 3)), (C, scored(1, 3, 3))]
    (pair,), _ = pairs(PairRule(), *judged)
    assert (pair.chosen, pair.rejected, pair.difference) == (B, C, 4.0)
    every, _ = pairs(PairRule(pick="all"), *judged)
    assert {(pair.chosen.name[-1], pair.rejected.name[-1]) for pair in every} == {("1", "0"), ("1", "2"), ("0", "2")}
    assert pairs(PairRule(), judged[0]) == ([], {})


def test_which_of_equal_extremes_is_taken_is_drawn() -> None:
    judged = [(response(number), scored(5 if number < 5 else 1, 3, 3)) for number in range(10)]
    taken = {pairs(PairRule(), *judged, seed=seed)[0][0].chosen.name for seed in range(60)}
    assert len(taken) == 5
    assert pairs(PairRule(), *judged) == pairs(PairRule(), *reversed(judged))


SCORES = st.integers(1, 5)
JUDGEMENTS = st.builds(scored, SCORES, SCORES, SCORES)


@settings(max_examples=60)
@given(st.lists(JUDGEMENTS, min_size=2, max_size=6), st.sampled_from(["accuracy", "overall"]), st.floats(0, 4))
def test_the_chosen_one_is_never_worse(judgements: Sequence[Judgement], by: str, margin: float) -> None:
    judged = [(response(number), one) for number, one in enumerate(judgements)]
    score = {item.name: score_of(one, by) for item, one in judged}  # pyright: ignore[reportArgumentType]
    for pick in ("all", "extremes"):
        found, left_out = pairs(PairRule(by=by, margin=margin, pick=pick), *judged)  # pyright: ignore[reportArgumentType]
        for pair in found:
            assert score[pair.chosen.name] - score[pair.rejected.name] >= max(margin, 1e-9)
        wanted = 1 if pick == "extremes" else len(list(itertools.combinations(judged, 2)))
        assert len(found) + sum(left_out.values()) == wanted


@settings(max_examples=60)
@given(st.tuples(JUDGEMENTS, JUDGEMENTS), st.tuples(JUDGEMENTS, JUDGEMENTS))
def test_both_orders_must_agree(as_is: tuple[Judgement, Judgement], turned: tuple[Judgement, Judgement]) -> None:
    """A's accuracy is as_is[0] and turned[1]; which one is called left makes no difference."""
    left_out = MissingItems()
    pair = pair_of_orders(A, B, (as_is, turned), PairRule(), left_out=left_out)
    swapped = pair_of_orders(B, A, (turned, as_is), PairRule(), left_out=MissingItems())
    assert pair == swapped
    differences = (as_is[0].accuracy - as_is[1].accuracy, turned[1].accuracy - turned[0].accuracy)
    if min(differences) > 0 or max(differences) < 0:
        assert pair is not None
        assert pair.chosen is (A if differences[0] > 0 else B)
        assert pair.difference == abs(sum(differences)) / 2
    else:
        assert pair is None
        told = "the two orders disagree, which is a tie" if differences[0] * differences[1] < 0 else "a tie"
        assert dict(left_out.counts) == {told: 1}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (PairRule(margin=-1), "--margin -1"),
        (PairRule(margin=float("nan")), "--margin nan"),
        (PairRule(by="overall", ties="overall"), "--ties overall: the mean of the three decides already"),
        (PairRule(by="style"), "--by style: choose one of accuracy, overall"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_rules_that_make_no_sense_are_refused(rule: PairRule, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rule.check()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=20))
def test_the_rank_correlation_is_spearmans(values: list[tuple[int, int]]) -> None:
    left, right = np.array(values, dtype=float).T
    found = spearman(left, right)
    if len(set(left)) == 1 or len(set(right)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(left, right)[0])


def test_the_interval_covers_the_truth_and_widens_with_dependence() -> None:
    """No correlation: 95 % intervals exclude 0 seldom, though the four responses of a prompt are alike."""
    generator = np.random.default_rng(0)
    missed, runs = 0, 60
    for run in range(runs):
        shared = generator.normal(size=(40, 1, 2)) + 0.3 * generator.normal(size=(40, 4, 2))
        left, right = shared.reshape(-1, 2).T
        groups = np.repeat(np.arange(40), 4)
        band = rank_correlation(left.tolist(), right.tolist(), groups.tolist(), seed=run, resamples=150)
        assert band is not None
        assert band.low <= band.estimate <= band.high
        missed += not band.low <= 0 <= band.high
    assert missed / runs < 0.12  # resamples that ignore the groups miss a third
    assert rank_correlation([1, 1, 1], [1, 2, 3], [0, 0, 1], seed=0) is None
    assert rank_correlation([1, 2], [1, 2], [0, 1], seed=0) is None


def test_a_share_has_wilsons_interval() -> None:
    band = share(8, 2)
    assert band is not None
    assert (band.estimate, round(band.low, 3), round(band.high, 3)) == (0.8, 0.490, 0.943)
    assert share(0, 0) is None
