"""Scores of target tokens: how probable a text is under the model, and under the rules that would sample it.

Legend: W rows of logits, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from megaphi.generation.decoding.interface import Request, Score
from megaphi.generation.decoding.sampling_law import Row, sampled_probabilities, settle


@dataclass(frozen=True, slots=True)
class TargetToken:
    """A token to score, and the rules and tokens that its draw would depend on."""

    token: int
    row: Row
    candidates: tuple[int, ...] = ()


def target_token(request: Request, position: int) -> TargetToken:
    """The token at `position` of a request that is scored; the scored tokens before it are its answer so far."""
    first = len(request.prompt) - request.scored
    row = Row(request.sampling, request.sample, request.prompt[:first], request.prompt[first:position])
    return TargetToken(request.prompt[position], row, request.candidates)


def score(logits_WV: Tensor, targets: Sequence[TargetToken]) -> list[Score]:
    """The score of each target token: under the model, and under the request's own sampling rules.

    The log-probability is NaN where the logits are no numbers. `logits_WV` may be changed.
    """
    is_defined_W = settle(logits_WV)
    log_probability_WV = logits_WV.log_softmax(-1)
    log_probability_WV[~is_defined_W] = torch.nan
    target_W1 = torch.tensor([target.token for target in targets], device=logits_WV.device)[:, None]
    entropy_W = -(log_probability_WV.exp() * log_probability_WV).nansum(-1)
    columns = (log_probability_WV.gather(1, target_W1).squeeze(1), log_probability_WV.argmax(-1), entropy_W)
    rules = [target.row.sampling for target in targets]
    best = log_probability_WV.topk(max(rule.alternatives for rule in rules))
    listed = zip(best.indices.tolist(), best.values.tolist(), rules, strict=True)
    alternatives = [tuple(zip(tokens, values, strict=True))[: rule.alternatives] for tokens, values, rule in listed]
    drawn = sampled_probabilities(logits_WV, [target.row for target in targets], [target.token for target in targets])
    sampled = [value if rule.json_schema is None else math.nan for value, rule in zip(drawn, rules, strict=True)]
    plain = (column.tolist() for column in columns)
    candidates = _candidates(log_probability_WV, targets)
    return [Score(*values) for values in zip(*plain, alternatives, sampled, candidates, strict=True)]


def _candidates(log_probability_WV: Tensor, targets: Sequence[TargetToken]) -> list[tuple[float, ...]]:
    """Log-probabilities of each target's candidates."""
    rows = [row for row, target in enumerate(targets) for _ in target.candidates]
    tokens = [token for target in targets for token in target.candidates]
    found = iter(log_probability_WV[rows, tokens].tolist() if tokens else ())
    return [tuple(islice(found, len(target.candidates))) for target in targets]
