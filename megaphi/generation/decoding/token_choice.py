"""Choice of the next token: greedy, or a draw after biases, penalties, temperature, top-k, top-p and min-p.

Every sequence of a batch has its own rules (`sampling_law.py`). A draw uses one number that is a function of (seed,
number of the sample, position in the answer): a sequence depends neither on its neighbours in the batch nor on the
layout, and every rank draws the same.

Legend: W rows of logits, V vocabulary, C candidates, U rows that want a second look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megaphi.generation.decoding.sampling_law import Law, Row, adjusted, laws, rows_of, settle
from megaphi.model.forward.to_device import to_device

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
    """The next token of every row; `logits_WV` (fp32) may be changed.

    The device is asked once, for all that the host wants to know; again where logits are infinite or no numbers, and
    for rows whose top-p is not reached within the tokens that are looked at first.
    """
    adjusted_WV, normaliser_W = adjusted(logits_WV, rows), logits_WV.logsumexp(-1)
    lines = _asked(logits_WV, adjusted_WV, normaliser_W, rows)
    is_defined = [True] * len(rows)
    if not all(line.is_plain for line in lines):
        is_defined_W = settle(logits_WV)
        if adjusted_WV is not logits_WV:
            is_defined_W &= settle(adjusted_WV)
        is_defined, normaliser_W = is_defined_W.tolist(), logits_WV.logsumexp(-1)
        lines = _asked(logits_WV, adjusted_WV, normaliser_W, rows)
    if unsure := [number for number, line in enumerate(lines) if not line.is_sure]:
        logits_UV, adjusted_UV, normaliser_U = (rows_of(a, unsure) for a in (logits_WV, adjusted_WV, normaliser_W))
        looked = _asked(logits_UV, adjusted_UV, normaliser_U, [rows[number] for number in unsure], whole=True)
        for number, line in zip(unsure, looked, strict=True):
            lines[number] = line
    tokens = [UNDEFINED if not defined else line.token for line, defined in zip(lines, is_defined, strict=True)]
    return Choice(
        tokens=[
            token if row.allowed is None or row.allowed.any() else NO_TOKEN
            for token, row in zip(tokens, rows, strict=True)
        ],
        log_probabilities=[line.log_probability for line in lines],
        alternatives=[line.alternatives[: row.sampling.alternatives] for line, row in zip(lines, rows, strict=True)],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """The answers of the device about one row."""

    token: int
    log_probability: float
    is_sure: bool
    """True if `token` would be the same had more tokens been looked at."""
    is_plain: bool
    """True if the logits are finite, as far as they decide anything."""
    alternatives: tuple[tuple[int, float], ...]


def _asked(
    logits_WV: Tensor, adjusted_WV: Tensor, normaliser_W: Tensor, rows: Sequence[Row], *, whole: bool = False
) -> list[_Line]:
    """A line for each row, all in one copy from the device: in fp64, which holds token ids and fp32 exactly."""
    tokens_W, is_sure_W = _tokens(adjusted_WV, rows, whole=whole)
    is_plain_W = normaliser_W.isfinite()
    if adjusted_WV is not logits_WV:
        is_plain_W &= adjusted_WV.amax(-1).isfinite()
    log_probability_W = logits_WV.gather(1, tokens_W[:, None].clamp(min=0)).squeeze(1) - normaliser_W
    columns = [torch.stack([part.double() for part in (tokens_W, log_probability_W, is_sure_W, is_plain_W)], dim=1)]
    most = max((row.sampling.alternatives for row in rows), default=0)
    if most:
        best = (logits_WV - normaliser_W[:, None]).topk(most)
        columns += [best.indices.double(), best.values.double()]
    return [
        _Line(
            token=int(token),
            log_probability=log_probability,
            is_sure=bool(is_sure),
            is_plain=bool(is_plain),
            alternatives=tuple(zip(map(int, best[:most]), best[most:], strict=True)),
        )
        for token, log_probability, is_sure, is_plain, *best in torch.cat(columns, dim=1).tolist()
    ]


def _tokens(logits_WV: Tensor, rows: Sequence[Row], *, whole: bool) -> tuple[Tensor, Tensor]:
    """[W] the tokens that the rules take from adjusted logits, and whether they are sure."""
    drawn = [number for number, row in enumerate(rows) if row.sampling.temperature > 0]
    if rows and len(drawn) == len(rows):
        return draw(logits_WV, rows, whole=whole)
    tokens_W = _greedy(logits_WV, rows)
    is_sure_W = torch.ones_like(tokens_W, dtype=torch.bool)
    if drawn:
        numbers_D = to_device(drawn, tokens_W.device)
        found = draw(rows_of(logits_WV, drawn), [rows[number] for number in drawn], whole=whole)
        for values_W, part_D in zip((tokens_W, is_sure_W), found, strict=True):
            values_W.index_copy_(0, numbers_D, part_D)
    return tokens_W, is_sure_W


def _greedy(logits_WV: Tensor, rows: Sequence[Row]) -> Tensor:
    """The top token of each row: all that temperature 0 keeps."""
    tokens_W = logits_WV.argmax(-1)
    most = max((len(row.excluded) for row in rows), default=0)
    if not most:
        return tokens_W
    excluded = [[*row.excluded, *[NO_TOKEN] * (most - len(row.excluded))] for row in rows]
    is_excluded_W = (tokens_W[:, None] == to_device(excluded, tokens_W.device)).any(1)
    return tokens_W.masked_fill(is_excluded_W, NOTHING_LEFT)


def draw(logits_WV: Tensor, rows: Sequence[Row], *, whole: bool) -> tuple[Tensor, Tensor]:
    """[W] one token id per row from what the rules leave, or NOTHING_LEFT, and whether it is sure (see `laws`).

    Every temperature must be above 0.
    """
    draws = [[uniform(row.sampling.seed, row.sample, len(row.answer))] for row in rows]
    draw_W1 = to_device(draws, logits_WV.device, dtype=torch.float64)
    tokens_W = torch.empty(len(rows), dtype=torch.int64, device=logits_WV.device)
    is_sure_W = torch.empty(len(rows), dtype=torch.bool, device=logits_WV.device)
    for law in laws(logits_WV, rows, whole=whole):
        law.exclude(rows)
        numbers_W = to_device(law.rows, logits_WV.device)
        tokens_W.index_copy_(0, numbers_W, _at(law, rows_of(draw_W1, law.rows)))
        is_sure_W.index_copy_(0, numbers_W, law.is_sure_W)
    return tokens_W, is_sure_W


def _at(law: Law, draw_W1: Tensor) -> Tensor:
    """[W] the first token up to which the cumulative probability exceeds the drawn number; NOTHING_LEFT if none has."""
    cumulative_WC = law.probability_WC.cumsum(-1)
    total_W1 = cumulative_WC[:, -1:].clone()
    index_W1 = torch.searchsorted(cumulative_WC, draw_W1 * total_W1, right=True)
    last_W1 = torch.searchsorted(cumulative_WC, total_W1)  # what comes after it has no probability
    # A row without a law (its logits are no numbers) is found out later: until then it has a token, too.
    chosen_W1 = torch.minimum(index_W1, last_W1).clamp_(max=cumulative_WC.shape[1] - 1)
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
