"""Choice of the next token: greedy, or a draw after biases, penalties, temperature, top-k, top-p and min-p.

The order and the meaning of the rules are Hugging Face's. Every sequence of a batch has its own rules. A draw uses one
number that is a function of (seed, number of the sample, position in the answer): a sequence depends neither on its
neighbours in the batch nor on the layout, and every rank draws the same. Only the few hundred most probable tokens are
looked at first; the whole vocabulary is sorted only where those do not reach top-p.

Legend: W rows of logits, V vocabulary, C candidates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megaphi.sampling import Sampling

NO_TOKEN = -1
"""The choice where no token is allowed."""
CANDIDATES = 256
"""Number of top tokens that are considered first."""
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence whose next token is to be chosen."""

    sampling: Sampling
    sample: int
    prompt: Sequence[int]
    answer: Sequence[int]
    allowed: NDArray[np.bool_] | None = None
    """[V] tokens that may come next; None allows all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The next token of each row, with its log-probability under the model itself: temperature 1, nothing left out."""

    tokens: list[int]
    log_probabilities: list[float]
    alternatives: list[tuple[tuple[int, float], ...]]


def choose(logits_WV: Tensor, rows: Sequence[Row]) -> Choice:
    """The next token of every row; `logits_WV` (fp32) may be changed."""
    normaliser_W = logits_WV.logsumexp(-1)
    raw_WV = logits_WV.clone() if any(_is_adjusted(row) for row in rows) else logits_WV
    most = max((row.sampling.alternatives for row in rows), default=0)
    best = (raw_WV - normaliser_W[:, None]).topk(most) if most else None
    for number, row in enumerate(rows):
        if _is_adjusted(row):
            _adjust(logits_WV[number], row)
    tokens_W = logits_WV.argmax(-1)
    drawn = [number for number, row in enumerate(rows) if row.sampling.temperature > 0]
    if drawn:
        chosen = logits_WV if len(drawn) == len(rows) else logits_WV[drawn]
        tokens_W[drawn] = draw(chosen, [rows[number] for number in drawn])
    log_probability_W = raw_WV.gather(1, tokens_W[:, None]).squeeze(1) - normaliser_W
    alternatives: list[tuple[tuple[int, float], ...]] = [()] * len(rows)
    if best is not None:
        listed = zip(best.indices.tolist(), best.values.tolist(), rows, strict=True)
        alternatives = [
            tuple(zip(tokens, values, strict=True))[: row.sampling.alternatives] for tokens, values, row in listed
        ]
    tokens = [
        token if row.allowed is None or row.allowed.any() else NO_TOKEN
        for token, row in zip(tokens_W.tolist(), rows, strict=True)
    ]
    return Choice(tokens=tokens, log_probabilities=log_probability_W.tolist(), alternatives=alternatives)


def _is_adjusted(row: Row) -> bool:
    rules = row.sampling
    penalties = (rules.repetition_penalty, rules.presence_penalty, rules.frequency_penalty)
    return row.allowed is not None or bool(rules.logit_bias) or penalties != (1.0, 0.0, 0.0)


def _adjust(logits_V: Tensor, row: Row) -> None:
    """In place: what is allowed, biases, penalties."""
    if row.allowed is not None and row.allowed.any():
        logits_V.masked_fill_(torch.from_numpy(~row.allowed).to(logits_V.device), -torch.inf)
    if row.sampling.logit_bias:
        tokens, biases = zip(*row.sampling.logit_bias, strict=True)
        ids, added = torch.tensor(tokens, device=logits_V.device), torch.tensor(biases, device=logits_V.device)
        logits_V.index_add_(0, ids, added.to(logits_V.dtype))
    _penalise(logits_V, row)


def _penalise(logits_V: Tensor, row: Row) -> None:
    """In place; repetition counts the prompt too (CTRL, Keskar et al. 2019), the other two the answer (OpenAI)."""
    sampling, device = row.sampling, logits_V.device
    if sampling.repetition_penalty != 1:
        seen = torch.tensor(sorted({*row.prompt, *row.answer}), device=device)
        values = logits_V[seen]
        scaled = torch.where(values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty)
        logits_V[seen] = scaled
    if row.answer and (sampling.presence_penalty or sampling.frequency_penalty):
        seen, counts = torch.tensor(row.answer, device=device).unique(return_counts=True)
        logits_V[seen] -= sampling.presence_penalty + sampling.frequency_penalty * counts


def draw(logits_WV: Tensor, rows: Sequence[Row]) -> Tensor:
    """One token id per row from what the rules leave; every temperature must be above 0.

    In which order tokens share the interval from 0 to 1 depends on the row alone: tokens that are looked at in order
    of their probability are so whatever the other rows ask for.
    """
    device = logits_WV.device
    temperature_W1 = torch.tensor([[row.sampling.temperature] for row in rows], device=device)
    draws = [uniform(row.sampling.seed, row.sample, len(row.answer)) for row in rows]
    draw_W1 = torch.tensor(draws, dtype=torch.float64, device=device)[:, None]
    scaled_WV = logits_WV / temperature_W1
    tokens_W = torch.empty(len(rows), dtype=torch.int64, device=device)
    for candidates, numbers in _by_candidates([row.sampling for row in rows]).items():
        if candidates is None:
            tokens_W[numbers] = _at(scaled_WV[numbers].double().softmax(-1), draw_W1[numbers])
            continue
        while numbers:
            rules = [rows[number].sampling for number in numbers]
            kept_WC, order_WC, is_sure_W = keep_of_top(scaled_WV[numbers], rules, candidates=candidates)
            chosen_W = _at(kept_WC, draw_W1[numbers])
            tokens_W[numbers] = order_WC.gather(1, chosen_W[:, None]).squeeze(1)
            numbers = [number for number, is_sure in zip(numbers, is_sure_W, strict=True) if not is_sure]
            candidates = logits_WV.shape[1]
    return tokens_W


def _by_candidates(rules: Sequence[Sampling]) -> dict[int | None, list[int]]:
    """Rows by how many of their top tokens are looked at first; None: all, in the vocabulary's order."""
    groups: dict[int | None, list[int]] = defaultdict(list)
    for number, rule in enumerate(rules):
        keeps_all = rule.top_k == 0 and rule.top_p == 1 and rule.min_p == 0
        groups[None if keeps_all else max(CANDIDATES, rule.top_k)].append(number)
    return groups


def keep_of_top(scaled_WV: Tensor, rules: Sequence[Sampling], *, candidates: int) -> tuple[Tensor, Tensor, list[bool]]:
    """Apply the rules to the `candidates` most probable tokens.

    Returns:
        probabilities [W, C] of what is kept, falling, with sum 1; the token ids [W, C] that they belong to; for each
        row whether no token beyond the candidates would have been kept.
    """
    vocabulary = scaled_WV.shape[1]
    sorted_WC, order_WC = scaled_WV.topk(min(candidates, vocabulary))
    kept_WC, is_sure_W = _keep(sorted_WC.double(), scaled_WV, rules)
    return kept_WC, order_WC, [True] * len(rules) if candidates >= vocabulary else is_sure_W.tolist()


def _keep(sorted_WC: Tensor, scaled_WV: Tensor, rules: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """(probabilities [W, C], [W] whether no token beyond the candidates would have been kept)"""
    device, candidates = sorted_WC.device, sorted_WC.shape[1]
    top_k_W1 = torch.tensor([[rule.top_k or candidates] for rule in rules], device=device)
    top_p_W1 = torch.tensor([[rule.top_p] for rule in rules], dtype=torch.float64, device=device)
    min_p_W1 = torch.tensor([[rule.min_p] for rule in rules], dtype=torch.float64, device=device)
    is_kept_WC = torch.arange(candidates, device=device) < top_k_W1
    sorted_WC = sorted_WC.masked_fill(~is_kept_WC, -torch.inf)
    # Without top-k the probabilities are those of the whole vocabulary, of which the candidates are a part.
    normaliser_W1 = sorted_WC.logsumexp(-1, keepdim=True)
    unbounded = torch.tensor([rule.top_k == 0 for rule in rules], device=device)
    if candidates < scaled_WV.shape[1] and bool(unbounded.any()):
        normaliser_W1 = torch.where(unbounded[:, None], scaled_WV.double().logsumexp(-1, keepdim=True), normaliser_W1)
    probability_WC = (sorted_WC - normaliser_W1).exp()
    before_WC = probability_WC.cumsum(-1) - probability_WC
    is_kept_WC = (before_WC < top_p_W1) & (probability_WC >= min_p_W1 * probability_WC[:, :1]) & is_kept_WC
    is_kept_WC[:, 0] = True
    reached_W = ~is_kept_WC[:, -1] | ~unbounded
    kept_WC = torch.where(is_kept_WC, probability_WC, 0.0)
    return kept_WC / kept_WC.sum(-1, keepdim=True), reached_W


def _at(probability_WC: Tensor, draw_W1: Tensor) -> Tensor:
    """The first index at which the cumulative probability exceeds the drawn number."""
    cumulative_WC = probability_WC.cumsum(-1)
    index_W1 = torch.searchsorted(cumulative_WC, draw_W1 * cumulative_WC[:, -1:], right=True)
    last_W1 = (probability_WC > 0).to(torch.uint8).flip(-1).argmax(-1, keepdim=True)
    return torch.minimum(index_W1, probability_WC.shape[1] - 1 - last_W1).squeeze(1)


def uniform(seed: int, sample: int, position: int) -> float:
    """A number in [0, 1) for one draw: splitmix64's finaliser over the three (Steele et al. 2014)."""
    state = 0
    for part in (seed, sample, position):
        state = _mixed(state + 0x9E3779B97F4A7C15 + (part & _MASK) * 0xD1342543DE82EF95)
    return (state >> 11) * 2.0**-53


def _mixed(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
