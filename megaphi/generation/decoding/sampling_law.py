"""The law of a draw: the probability of every token under a request's rules, as `token_choice.draw` uses it.

The order and the meaning of the rules are Hugging Face's: what is allowed, biases, penalties, temperature, top-k,
top-p, min-p. Only the few hundred most probable tokens are looked at first; the whole vocabulary is sorted only where
those do not reach top-p. Scores take their probabilities from the same law, so they are exactly those of a draw.
All arithmetic is in float64 and relative to the top logit, so that the limits are exact: as temperature or repetition
penalty go to 0 the law becomes the top token's, and no rule makes NaN of numbers.

Legend: W rows of logits, V vocabulary, C candidates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megaphi.model.forward.to_device import to_device
from megaphi.sampling import Sampling

CANDIDATES = 256
"""Number of top tokens that are considered first."""
SMALLEST_DIVISOR = 1e-200
"""The least that a logit is divided by: the quotients of two fp32 numbers stay finite in float64, and far apart."""


@dataclass(frozen=True, slots=True)
class Row:
    """One position of a sequence whose next token is to be chosen, or has been."""

    sampling: Sampling
    sample: int
    prompt: Sequence[int]
    answer: Sequence[int]
    allowed: NDArray[np.bool_] | None = None
    """[V] tokens that may come next; None allows all."""
    excluded: frozenset[int] = frozenset()
    """Tokens that are taken out of the law after all other rules; the others share their probability."""


def is_adjusted(row: Row) -> bool:
    """Return whether `adjust` would change the logits of a row."""
    rules = row.sampling
    penalties = (rules.repetition_penalty, rules.presence_penalty, rules.frequency_penalty)
    return row.allowed is not None or bool(rules.logit_bias) or penalties != (1.0, 0.0, 0.0)


def adjusted(logits_WV: Tensor, rows: Sequence[Row]) -> Tensor:
    """After what is allowed, biases and penalties: a copy in float64, or the same tensor if no row has any of them."""
    if not any(is_adjusted(row) for row in rows):
        return logits_WV
    adjusted_WV = logits_WV.to(torch.float64, copy=True)
    for logits_V, row in zip(adjusted_WV, rows, strict=True):
        if is_adjusted(row):
            adjust(logits_V, row)
    return adjusted_WV


def adjust(logits_V: Tensor, row: Row) -> None:
    """In place, for logits in float64: what is allowed, biases, penalties."""
    if row.allowed is not None and row.allowed.any():
        logits_V.masked_fill_(to_device(~row.allowed, logits_V.device), -torch.inf)
    if row.sampling.logit_bias:
        tokens, biases = zip(*row.sampling.logit_bias, strict=True)
        ids = to_device(tokens, logits_V.device)
        logits_V.index_add_(0, ids, to_device(biases, logits_V.device, dtype=logits_V.dtype))
    _penalise(logits_V, row)


def _penalise(logits_V: Tensor, row: Row) -> None:
    """In place; repetition counts the prompt too (CTRL, Keskar et al. 2019), the other two the answer (OpenAI)."""
    sampling, device = row.sampling, logits_V.device
    if sampling.repetition_penalty != 1:
        seen = to_device(sorted({*row.prompt, *row.answer}), device)
        values = logits_V[seen]
        penalty = sampling.repetition_penalty
        logits_V[seen] = torch.where(values > 0, values / max(penalty, SMALLEST_DIVISOR), values * penalty)
    if row.answer and (sampling.presence_penalty or sampling.frequency_penalty):
        seen, counts = (to_device(part, device) for part in np.unique(row.answer, return_counts=True))
        logits_V[seen] -= sampling.presence_penalty + sampling.frequency_penalty * counts


def settle(logits_WV: Tensor) -> Tensor:
    """[W] whether each row has a law: no logit is NaN, and one is above minus infinity.

    In place: infinite logits become 0 and those beside them minus infinity, which is the limit; a row without a law
    becomes zeros.
    """
    top_W = logits_WV.amax(-1)  # NaN if one is
    is_defined_W = ~(top_W.isnan() | top_W.isneginf())
    for number in (~top_W.isfinite()).nonzero().flatten().tolist():
        logits_V = logits_WV[number]
        is_top_V = logits_V == torch.inf
        logits_V.zero_()
        if is_defined_W[number]:
            logits_V.masked_fill_(~is_top_V, -torch.inf)
    return is_defined_W


@dataclass(frozen=True, slots=True)
class Law:
    """Probabilities of the tokens that the rules keep, for some of the rows of a batch, with sum 1."""

    rows: list[int]
    """Numbers of the rows in the batch."""
    probability_WC: Tensor
    """float64; rows may share memory with nothing else."""
    tokens_WC: Tensor | None
    """Ids of the tokens, the most probable first; None where C is the whole vocabulary in its own order."""
    is_sure_W: Tensor
    """True where no token beyond those that were looked at would have been kept."""

    def of(self, targets_W: Tensor) -> Tensor:
        """[W] probability of one token for each of the law's rows; 0 for one that is not kept."""
        if self.tokens_WC is None:
            return self.probability_WC.gather(1, targets_W[:, None]).squeeze(1)
        return torch.where(self.tokens_WC == targets_W[:, None], self.probability_WC, 0.0).sum(-1)

    def exclude(self, rows: Sequence[Row]) -> None:
        """In place: take out what each of the batch's `rows` excludes, without sharing its probability out."""
        for place, number in enumerate(self.rows):
            if not rows[number].excluded:
                continue
            excluded_E = to_device(sorted(rows[number].excluded), self.probability_WC.device)
            if self.tokens_WC is None:
                self.probability_WC[place].index_fill_(0, excluded_E, 0.0)
            else:
                is_excluded_C = (self.tokens_WC[place][:, None] == excluded_E).any(1)
                self.probability_WC[place].masked_fill_(is_excluded_C, 0.0)


def laws(logits_WV: Tensor, rows: Sequence[Row], *, whole: bool = False) -> Iterator[Law]:
    """The laws of all rows of `adjusted` logits; every temperature must be above 0.

    In which order tokens share the interval from 0 to 1 depends on the row alone: tokens that are looked at in order
    of their probability are so whatever the other rows ask for. Rows that are not sure want another, `whole` look, at
    all tokens; whether they are is left on the device, to be asked together with what else is asked.
    """
    scaled_WV = _scaled(logits_WV, rows)
    for candidates, numbers in _by_candidates([row.sampling for row in rows]).items():
        own_WV = rows_of(scaled_WV, numbers)
        if candidates is None:
            yield Law(numbers, own_WV.softmax(-1), None, own_WV.new_ones(len(numbers), dtype=torch.bool))
        else:
            rules = [rows[number].sampling for number in numbers]
            yield Law(numbers, *keep_of_top(own_WV, rules, candidates=own_WV.shape[1] if whole else candidates))


def rows_of(values_W: Tensor, numbers: Sequence[int]) -> Tensor:
    """[numbers, ...] these rows, in rising order; the tensor itself if they are all of them."""
    if len(numbers) == len(values_W):
        return values_W
    return values_W.index_select(0, to_device(numbers, values_W.device, dtype=torch.int64))


def _scaled(logits_WV: Tensor, rows: Sequence[Row]) -> Tensor:
    """[W, V] float64: how far each logit is below the top one, divided by the temperature."""
    temperatures = [[row.sampling.temperature] for row in rows]
    temperature_W1 = to_device(temperatures, logits_WV.device, dtype=torch.float64)
    scaled_WV = logits_WV.to(torch.float64, copy=True)
    return scaled_WV.sub_(logits_WV.amax(-1, keepdim=True)).div_(temperature_W1)


def sampled_probabilities(logits_WV: Tensor, rows: Sequence[Row], targets: Sequence[int]) -> list[float]:
    """The probability with which `choose` takes each row's target; 1 or 0 at temperature 0.

    `logits_WV` may be changed.
    """
    logits_WV = adjusted(logits_WV, rows)
    settle(logits_WV)
    targets_W = to_device(targets, logits_WV.device)
    found_W = (logits_WV.argmax(-1) == targets_W).double()
    drawn = [number for number, row in enumerate(rows) if row.sampling.temperature > 0]
    whole = False
    while drawn:
        asked, drawn = drawn, []
        for law in laws(rows_of(logits_WV, asked), [rows[number] for number in asked], whole=whole):
            numbers = [asked[number] for number in law.rows]
            found_W.index_copy_(0, to_device(numbers, found_W.device), law.of(rows_of(targets_W, numbers)))
            drawn += [number for number, is_sure in zip(numbers, law.is_sure_W.tolist(), strict=True) if not is_sure]
        whole = True
    return found_W.tolist()


def _by_candidates(rules: Sequence[Sampling]) -> dict[int | None, list[int]]:
    """Rows by how many of their top tokens are looked at first; None: all, in the vocabulary's order."""
    groups: dict[int | None, list[int]] = defaultdict(list)
    for number, rule in enumerate(rules):
        keeps_all = rule.top_k == 0 and rule.top_p == 1 and rule.min_p == 0
        groups[None if keeps_all else max(CANDIDATES, rule.top_k)].append(number)
    return groups


def keep_of_top(scaled_WV: Tensor, rules: Sequence[Sampling], *, candidates: int) -> tuple[Tensor, Tensor, Tensor]:
    """Apply the rules to the `candidates` most probable tokens of `scaled_WV` (float64).

    Returns:
        probabilities [W, C] of what is kept, falling, with sum 1; the token ids [W, C] that they belong to; for each
        row [W] whether no token beyond the candidates would have been kept.
    """
    vocabulary = scaled_WV.shape[1]
    sorted_WC, order_WC = scaled_WV.topk(min(candidates, vocabulary))
    kept_WC, is_sure_W = _keep(sorted_WC, scaled_WV, rules)
    return kept_WC, order_WC, torch.ones_like(is_sure_W) if candidates >= vocabulary else is_sure_W


def _keep(sorted_WC: Tensor, scaled_WV: Tensor, rules: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """(probabilities [W, C], [W] whether no token beyond the candidates would have been kept)"""
    device, candidates = sorted_WC.device, sorted_WC.shape[1]
    limits = [(rule.top_k or candidates, rule.top_k == 0, rule.top_p, rule.min_p) for rule in rules]
    top_k_W1, unbounded_W1, top_p_W1, min_p_W1 = to_device(limits, device, dtype=torch.float64).split(1, dim=1)
    is_kept_WC = torch.arange(candidates, device=device) < top_k_W1
    sorted_WC = sorted_WC.masked_fill(~is_kept_WC, -torch.inf)
    # Without top-k the probabilities are those of the whole vocabulary, of which the candidates are a part.
    normaliser_W1 = sorted_WC.logsumexp(-1, keepdim=True)
    is_unbounded_W1 = unbounded_W1 > 0
    if candidates < scaled_WV.shape[1] and any(rule.top_k == 0 for rule in rules):
        normaliser_W1 = torch.where(is_unbounded_W1, scaled_WV.logsumexp(-1, keepdim=True), normaliser_W1)
    probability_WC = (sorted_WC - normaliser_W1).exp()
    before_WC = probability_WC.cumsum(-1) - probability_WC
    is_kept_WC = (before_WC < top_p_W1) & (probability_WC >= min_p_W1 * probability_WC[:, :1]) & is_kept_WC
    is_kept_WC[:, 0] = True
    reached_W = ~is_kept_WC[:, -1] | ~is_unbounded_W1[:, 0]
    kept_WC = torch.where(is_kept_WC, probability_WC, 0.0)
    return kept_WC / kept_WC.sum(-1, keepdim=True), reached_W
