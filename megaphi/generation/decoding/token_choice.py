"""Choice of the next token: greedy, or a draw after biases, penalties, temperature, top-k, top-p and min-p.

Every sequence of a batch has its own rules (`sampling_law.py`). A draw uses one number that is a function of (seed,
number of the sample, position in the answer): a sequence depends neither on its neighbours in the batch nor on the
layout, and every rank draws the same.

Legend: W rows of logits, V vocabulary, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megaphi.generation.decoding.sampling_law import Law, Row, adjusted, laws, settle

NO_TOKEN = -1
"""The choice where no token is allowed."""
NOTHING_LEFT = -2
"""The choice where every token that the rules keep is excluded."""
UNDEFINED = -3
"""The choice where the logits are no numbers: one is NaN, or none is above minus infinity."""
_MASK = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The next token of each row, with its log-probability under the model itself: temperature 1, nothing left out."""

    tokens: list[int]
    log_probabilities: list[float]
    alternatives: list[tuple[tuple[int, float], ...]]


def choose(logits_WV: Tensor, rows: Sequence[Row]) -> Choice:
    """The next token of every row; `logits_WV` (fp32) may be changed."""
    adjusted_WV = adjusted(logits_WV, rows)
    normaliser_W = logits_WV.logsumexp(-1)
    is_defined_W = normaliser_W.isfinite()
    if not is_defined_W.all():
        is_defined_W = settle(logits_WV)
        normaliser_W = logits_WV.logsumexp(-1)
    if adjusted_WV is not logits_WV:
        is_defined_W &= settle(adjusted_WV)
    most = max((row.sampling.alternatives for row in rows), default=0)
    best = (logits_WV - normaliser_W[:, None]).topk(most) if most else None
    tokens_W = _tokens(adjusted_WV, rows)
    log_probability_W = logits_WV.gather(1, tokens_W[:, None].clamp(min=0)).squeeze(1) - normaliser_W
    alternatives: list[tuple[tuple[int, float], ...]] = [()] * len(rows)
    if best is not None:
        listed = zip(best.indices.tolist(), best.values.tolist(), rows, strict=True)
        alternatives = [
            tuple(zip(tokens, values, strict=True))[: row.sampling.alternatives] for tokens, values, row in listed
        ]
    tokens_W = torch.where(is_defined_W, tokens_W, UNDEFINED)
    tokens = [
        token if row.allowed is None or row.allowed.any() else NO_TOKEN
        for token, row in zip(tokens_W.tolist(), rows, strict=True)
    ]
    return Choice(tokens=tokens, log_probabilities=log_probability_W.tolist(), alternatives=alternatives)


def _tokens(logits_WV: Tensor, rows: Sequence[Row]) -> Tensor:
    """[W] the tokens that the rules take from adjusted logits."""
    drawn = [number for number, row in enumerate(rows) if row.sampling.temperature > 0]
    if rows and len(drawn) == len(rows):
        return draw(logits_WV, rows)
    tokens_W = _greedy(logits_WV, rows)
    if drawn:
        tokens_W[drawn] = draw(logits_WV[drawn], [rows[number] for number in drawn])
    return tokens_W


def _greedy(logits_WV: Tensor, rows: Sequence[Row]) -> Tensor:
    """The top token of each row: all that temperature 0 keeps."""
    tokens_W = logits_WV.argmax(-1)
    for number, row in enumerate(rows):
        if row.excluded and int(tokens_W[number]) in row.excluded:
            tokens_W[number] = NOTHING_LEFT
    return tokens_W


def draw(logits_WV: Tensor, rows: Sequence[Row]) -> Tensor:
    """One token id per row from what the rules leave, or NOTHING_LEFT; every temperature must be above 0."""
    draws = [uniform(row.sampling.seed, row.sample, len(row.answer)) for row in rows]
    draw_W1 = torch.tensor(draws, dtype=torch.float64, device=logits_WV.device)[:, None]
    tokens_W = torch.empty(len(rows), dtype=torch.int64, device=logits_WV.device)
    for law in laws(logits_WV, rows):
        law.exclude(rows)
        tokens_W[law.rows] = _at(law, draw_W1[law.rows])
    return tokens_W


def _at(law: Law, draw_W1: Tensor) -> Tensor:
    """[W] the first token up to which the cumulative probability exceeds the drawn number; NOTHING_LEFT if none has."""
    cumulative_WC = law.probability_WC.cumsum(-1)
    total_W1 = cumulative_WC[:, -1:].clone()
    index_W1 = torch.searchsorted(cumulative_WC, draw_W1 * total_W1, right=True)
    last_W1 = torch.searchsorted(cumulative_WC, total_W1)  # what comes after it has no probability
    chosen_W1 = torch.minimum(index_W1, last_W1)
    if law.tokens_WC is not None:
        chosen_W1 = law.tokens_WC.gather(1, chosen_W1)
    return torch.where(total_W1 > 0, chosen_W1, NOTHING_LEFT).squeeze(1)


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
