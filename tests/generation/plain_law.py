"""The law of sampling in plain torch, in float64, token after token: what `sampling_law.py` is compared with."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from megaphi.generation.decoding.token_choice import uniform
from megaphi.sampling import Sampling


def plain_law(logits_V: Tensor, rules: Sampling, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """[V] float64 probability of each token after all rules."""
    logits = logits_V.double().tolist()
    for token, bias in rules.logit_bias:
        logits[token] += bias
    for token in {*prompt, *answer}:
        logits[token] *= rules.repetition_penalty ** (-1 if logits[token] > 0 else 1)
    for token in set(answer):
        logits[token] -= rules.presence_penalty + rules.frequency_penalty * list(answer).count(token)
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    law_V = torch.zeros(len(logits), dtype=torch.float64)
    if rules.temperature == 0:
        law_V[order[0]] = 1.0
        return law_V
    kept = order[: rules.top_k or None]
    shares = torch.tensor([logits[token] / rules.temperature for token in kept], dtype=torch.float64).softmax(0)
    before = 0.0
    for rank, (token, share) in enumerate(zip(kept, shares.tolist(), strict=True)):
        if rank == 0 or (before < rules.top_p and share >= rules.min_p * shares[0]):
            law_V[token] = share
        before += share
    return law_V / law_V.sum()


def first_by(law_V: Tensor, rules: Sampling, sample: int, *, excluded: Collection[int]) -> int | None:
    """The first token of an answer by its number; None if nothing is left. For rules that leave tokens out."""
    left_V = law_V.clone()
    left_V[list(excluded)] = 0.0
    if not left_V.any():
        return None
    order = left_V.argsort(descending=True, stable=True)
    ends = (left_V / left_V.sum())[order].cumsum(0)
    return int(order[int((ends <= uniform(rules.seed, sample, 0)).sum())])
