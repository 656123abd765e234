"""Sampling against transformers' own filters and against the distribution it should draw from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from megaphi.errors import InputError
from megaphi.generation.sampling import Sampling, keep_likely, next_tokens


def drawn(logits, sampling, rows=1):
    return next_tokens(logits.expand(rows, -1), sampling, torch.Generator().manual_seed(sampling.seed))


@given(
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.integers(0, 12),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_what_is_kept_is_what_transformers_keeps(seed, temperature, top_k, top_p):
    logits_BV = torch.randn(3, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    expected_BV = TemperatureLogitsWarper(temperature)(None, logits_BV)
    if top_k:
        expected_BV = TopKLogitsWarper(top_k)(None, expected_BV)
    if top_p < 1:
        expected_BV = TopPLogitsWarper(top_p)(None, expected_BV)
    torch.testing.assert_close(keep_likely(logits_BV / temperature, top_k=top_k, top_p=top_p), expected_BV)


def test_greedy_takes_the_likeliest_and_the_first_of_equals():
    logits_BV = torch.tensor([[0.0, 3.0, 1.0], [2.0, 2.0, 2.0]])
    assert next_tokens(logits_BV, Sampling(), torch.Generator()).tolist() == [1, 0]


def test_draws_follow_the_distribution():
    """Chi-square over 20,000 draws: 5 degrees of freedom exceed 20.5 once in a thousand."""
    logits_V = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5, 1.5])
    counts = drawn(logits_V, Sampling(temperature=1.7, seed=3), rows=20_000).bincount(minlength=6)
    expected = (logits_V / 1.7).softmax(-1) * 20_000
    assert ((counts - expected) ** 2 / expected).sum() < 20.5


def test_a_seed_is_a_sequence():
    logits_V = torch.zeros(1_000)
    draws = [drawn(logits_V, Sampling(temperature=1.0, seed=seed), rows=50).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "--max-tokens 0: must be at least 1"),
        ({"temperature": -1.0}, "--temperature -1.0: must not be negative"),
        ({"top_k": -1}, "--top-k -1: must not be negative"),
        ({"top_p": 0.0}, "--top-p 0.0: must be above 0 and at most 1"),
        ({"top_p": 1.1}, "--top-p 1.1: must be above 0"),
    ],
)
def test_settings_that_cannot_be(fields, message):
    with pytest.raises(InputError, match=message):
        Sampling(**fields).check()
