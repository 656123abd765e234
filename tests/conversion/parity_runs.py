"""Ranks of the conversion's tests."""

from __future__ import annotations

import numpy as np

from megaphi.parallel.layout import ParallelLayout


def logits(checkpoint: str, layout: ParallelLayout, tokens_BS: np.ndarray) -> np.ndarray:
    """Logits of the parallel engine for a checkpoint, `[B, S, V]`."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import logits_of, open_model

    return logits_of(open_model(open_weights(checkpoint), layout), tokens_BS).numpy()


def compare_logits(checkpoint: str, layout: ParallelLayout, tokens_BS: np.ndarray, expected: str, atol: float) -> None:
    """Fail on a rank whose logits are not those of the file `expected`: too many to send, of a large vocabulary."""
    np.testing.assert_allclose(logits(checkpoint, layout, tokens_BS), np.load(expected), rtol=0, atol=atol)


def greedy(checkpoint: str, layout: ParallelLayout, prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
    """Greedy continuations through the parallel engine."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation.decoding.generate import generate
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.sampling import Sampling

    engine = InferenceEngine(open_model(open_weights(checkpoint), layout), cache_bytes=64 << 20)
    return [found[0].tokens for found in generate(engine, prompts, Sampling(max_tokens=max_tokens))]
