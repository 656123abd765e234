"""Pairs: direction, posterior, calibration against truth, and the records that preference training reads."""

import json

import numpy as np
import pytest
from scipy import stats

from megaphi.data.packed.preference_pairs import read_pairs
from megaphi.pivotal.methods.findings import Alternative, Counts
from megaphi.pivotal.methods.pairs import chance_of_margin, pairs_of
from megaphi.pivotal.methods.statistics.effects import Contrast, token_effect
from megaphi.pivotal.methods.trace import Trace

TRACE = Trace(prompt=(9, 8), tokens=(5, 6, 7), probabilities=(0.5, 0.5, 0.5), success=True)


def pivotal(after, alternatives, *, known=0.0, weight=1.0, position=1):
    otherwise = Counts()
    for one in alternatives:
        otherwise += one.counts
    contrast = Contrast(scale=0.5, known=known, weight=weight, after=after, otherwise=otherwise)
    return token_effect(
        contrast,
        position=position,
        token=TRACE.tokens[position],
        probability=0.5,
        alternatives=alternatives,
        confidence=0.95,
        p=0.001,
    )


def test_a_rising_token_is_accepted_over_the_worst_and_a_falling_one_rejected_for_the_best():
    alternatives = [Alternative(30, Counts(10, 10)), Alternative(31, Counts(1, 19)), Alternative(32, Counts(0, 1))]
    record = pairs_of([pivotal(Counts(36, 4), alternatives)], TRACE, question="q7").records[0]
    assert (record["prompt"], record["accepted"], record["rejected"]) == ([9, 8, 5], [6], [31])
    assert (record["accepted_n"], record["accepted_successes"], record["rejected_n"], record["rejected_successes"]) == (
        40,
        36,
        20,
        1,
    )
    assert record["question"] == "q7"
    better = [Alternative(30, Counts(10, 10)), Alternative(31, Counts(19, 1))]
    record = pairs_of([pivotal(Counts(4, 36), better)], TRACE, question="q7").records[0]
    assert (record["accepted"], record["rejected"]) == ([31], [6])
    assert record["effect"] < 0


def test_what_makes_no_pair_is_counted_by_reason():
    tokens = [
        pivotal(Counts(36, 4), [Alternative(30, Counts(0, 1))]),
        pivotal(Counts(24, 16), [Alternative(30, Counts(8, 12))]),
    ]
    report = pairs_of(tokens, TRACE, question="q")
    assert report.records == ()
    assert sorted(report.left_out.values()) == [1, 1]
    assert any("0.95" in reason for reason in report.left_out)


def test_the_chance_is_the_posterior_probability():
    random = np.random.default_rng(0)
    token = pivotal(
        Counts(14, 6), [Alternative(30, Counts(3, 7)), Alternative(31, Counts(5, 5))], known=0.2, weight=0.8
    )
    q = stats.beta(14.5, 6.5).rvs(400_000, random_state=random)
    v = stats.beta(3 + 2 * 0.4 + 0.25, 7 + 2 * 0.6 + 0.25).rvs(400_000, random_state=random)
    assert chance_of_margin(token, token.alternatives[0], margin=0.1) == pytest.approx(
        np.mean(0.2 + 0.8 * q - v >= 0.1), abs=0.003
    )
    falling = pivotal(Counts(6, 14), [Alternative(30, Counts(7, 3))])
    q, v = (
        stats.beta(6.5, 14.5).rvs(400_000, random_state=random),
        stats.beta(7 + 1.4 + 0.25, 3 + 0.6 + 0.25).rvs(400_000, random_state=random),
    )
    assert chance_of_margin(falling, falling.alternatives[0], margin=0.1) == pytest.approx(
        np.mean(v - q >= 0.1), abs=0.003
    )


def test_censored_rollouts_count_against_the_pair():
    alternative = Alternative(30, Counts(3, 17))
    clear = chance_of_margin(pivotal(Counts(15, 5), [alternative]), alternative, margin=0.1)
    for after, rival in ((Counts(15, 0, 5), Counts(3, 17)), (Counts(15, 5), Counts(3, 12, 5))):
        censored = Alternative(30, rival)
        assert chance_of_margin(pivotal(after, [censored]), censored, margin=0.1) <= clear + 0.005
    settled = Alternative(30, Counts(8, 12))
    assert chance_of_margin(
        pivotal(Counts(15, 5), [Alternative(30, Counts(3, 12, 5))]), Alternative(30, Counts(3, 12, 5)), margin=0.1
    ) == pytest.approx(chance_of_margin(pivotal(Counts(15, 5), [settled]), settled, margin=0.1), abs=0.02)


def test_pairs_are_right_as_often_as_they_claim():
    """Truths drawn anew: three alternatives around a common mean, 30 rollouts among them, 30 behind the token."""
    random = np.random.default_rng(4)
    right, chances = [], []
    for _ in range(1500):
        p, mean = random.random(2)
        values = random.beta(4 * mean + 0.1, 4 * (1 - mean) + 0.1, 3)
        n = random.multinomial(30, [0.5, 0.3, 0.2])
        alternatives = [
            Alternative(30 + i, Counts(s, int(n[i]) - s)) for i, s in enumerate(random.binomial(n, values).tolist())
        ]
        x = int(random.binomial(30, p))
        report = pairs_of([pivotal(Counts(x, 30 - x), alternatives)], TRACE, question="q")
        for record in report.records:
            rises = record["accepted"] == [6]
            value = values[(record["rejected"] if rises else record["accepted"])[0] - 30]
            right.append((p - value if rises else value - p) >= 0.1)
            chances.append(record["chance"])
    assert len(right) > 400
    assert np.mean(right) >= 0.95


def test_preference_training_reads_the_records(tmp_path):
    alternatives = [Alternative(31, Counts(1, 19))]
    tokens = [pivotal(Counts(36, 4), alternatives, position=at) for at in (0, 2)]
    path = tmp_path / "pairs.jsonl"
    records = pairs_of(tokens, TRACE, question="q").records
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    pairs, report = read_pairs(
        [str(path)],
        None,
        sequence_length=64,
        append_eos=True,
        max_completion_tokens=None,
        too_long="error",
        vocabulary=100,
    )
    assert [(pair.prompt.tolist(), pair.chosen.tolist(), pair.rejected.tolist()) for pair in pairs] == [
        ([9, 8], [5], [31]),
        ([9, 8, 5, 6], [7], [31]),
    ]
    assert report.kept == 2
