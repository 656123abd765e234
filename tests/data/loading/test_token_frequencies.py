"""The unigram baseline against a direct count, and against the entropy of what it was fitted on."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from megaphi.data.loading import token_frequencies
from megaphi.data.loading.token_frequencies import token_counts, unigram_cross_entropy, weighted_token_counts
from tests.data.loading.test_loader import VOCABULARY, WEIGHTS, corpus, open_corpus

__all__ = ["corpus"]  # the fixture


def test_counts_of_a_stream(corpus, monkeypatch):
    monkeypatch.setattr(token_frequencies, "COUNTED_AT_ONCE", 37)
    for name, stream in zip(WEIGHTS, open_corpus(corpus).streams, strict=True):
        counted = Counter(corpus[name][1])
        expected = [counted[token] for token in range(VOCABULARY)]
        assert token_counts(stream, vocabulary_size=VOCABULARY).tolist() == expected


def test_sources_count_by_share_and_not_by_size(corpus):
    counts = weighted_token_counts(open_corpus(corpus), vocabulary_size=VOCABULARY)
    total = sum(len(stream) for _, stream in corpus.values())
    assert counts.sum() == pytest.approx(total)
    shares = {name: weight / 100 for name, weight in WEIGHTS.items()}
    for token in (1, 2, 500):
        expected = sum(shares[name] * stream.count(token) / len(stream) for name, (_, stream) in corpus.items())
        assert counts[token] / total == pytest.approx(expected)


def test_cross_entropy_by_hand():
    assert unigram_cross_entropy([3, 1, 0], [0, 1, 2, 0]) == pytest.approx(-np.log([4 / 7, 2 / 7, 1 / 7, 4 / 7]).mean())


def test_it_is_the_best_there_is_on_its_own_tokens():
    """With much data and little smoothing, its loss is the entropy of the token frequencies."""
    tokens = np.random.default_rng(0).zipf(1.5, 200_000) % 50
    counts = np.bincount(tokens, minlength=50)
    frequencies = counts[counts > 0] / len(tokens)
    entropy = -(frequencies * np.log(frequencies)).sum()
    assert unigram_cross_entropy(counts, tokens) == pytest.approx(entropy, abs=1e-6)
    assert unigram_cross_entropy(np.ones(50), tokens) == pytest.approx(math.log(50))
