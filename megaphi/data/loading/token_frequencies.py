"""The best model that knows no context: one probability per token. What any trained model must beat.

It is fitted on the training mixture as the model sees it, every source counted by its share and not by its size, and
judged on the validation tokens. Add-one smoothing gives unseen tokens a probability; with millions of tokens and
thousands of ids it costs next to nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.data.loading.loader import OpenMixture
from megaphi.data.storage.streams import TokenStream

COUNTED_AT_ONCE = 1 << 22


def token_counts(stream: TokenStream, *, vocabulary_size: int) -> NDArray[np.int64]:
    """Count the occurrences of each id in a whole stream: int64 [V]."""
    counts_V = np.zeros(vocabulary_size, dtype=np.int64)
    for dataset in stream.datasets:
        for start in range(0, dataset.token_count, COUNTED_AT_ONCE):
            tokens = dataset.tokens(start, min(COUNTED_AT_ONCE, dataset.token_count - start))
            counts_V += np.bincount(tokens, minlength=vocabulary_size)
    return counts_V


def weighted_token_counts(mixture: OpenMixture, *, vocabulary_size: int) -> NDArray[np.float64]:
    """Expected count of each id in as many tokens of the mixture as its sources hold together: float64 [V].

    count(v) = N sum_i share_i n_i(v) / N_i for sources of N_i tokens, n_i(v) of them v, which the run draws with
    share_i, and N = sum_i N_i.
    """
    total = sum(stream.token_count for stream in mixture.streams)
    drawn = mixture.tokens_by_source(mixture.order.end_sample)
    counts_V = np.zeros(vocabulary_size)
    for source, stream in zip(mixture.sources, mixture.streams, strict=True):
        counts_V += (
            drawn[source.name]
            / sum(drawn.values())
            * token_counts(stream, vocabulary_size=vocabulary_size)
            / stream.token_count
        )
    return counts_V * total


def unigram_cross_entropy(training_counts_V: ArrayLike, tokens: ArrayLike) -> float:
    """Mean of -ln p(token) over `tokens` (any shape), in nats, with p(v) = (count(v) + 1) / (sum of counts + V).

    Give it the labels of the validation batches to compare with their loss.
    """
    smoothed_V = np.asarray(training_counts_V, dtype=np.float64) + 1
    surprise_V = np.log(smoothed_V.sum()) - np.log(smoothed_V)
    return float(surprise_V[np.asarray(tokens)].mean())
