"""Searches to compare with: two samples at every token, a fixed number everywhere, and no rollouts at all.

`two_arm` compares plain rollouts from before and behind every candidate. `fixed` does so at every token that was not
certain, up to a number for each position, and stops early where a comparison is decided: what resampling studies of
reasoning traces do. `uncertain` calls the least probable tokens pivotal.
"""

from __future__ import annotations

import math

import numpy as np

from megaphi.pivotal.methods.bisection import PlainSamples
from megaphi.pivotal.methods.findings import Findings
from megaphi.pivotal.methods.method import Search
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.methods.trace import Trace

FIRST = 10
"""Rollouts of each position before `fixed` looks for the first time, and added each time after."""


def two_arm(trace: Trace, settings: Settings) -> Search:
    """The plain difference at every token that may be pivotal; nothing is selected, so its own p values are valid."""
    positions = _candidates(trace, settings.gap)
    plain = PlainSamples(trace, settings.rollouts)
    yield from plain.drawn({end for position in positions for end in (position, position + 1)})
    changes = {position: plain.success(position + 1) - plain.success(position) for position in positions}
    tokens = []
    for position, change in changes.items():
        # The sign is chosen by the same rollouts, so both directions are paid for.
        p = 2 * plain.contrast(position).p_value(null_effect=settings.null_effect, rises=change > 0)
        tokens.append(plain.effect(position, settings, min(1.0, p)))
    return Findings(
        method="two_arm",
        selected=tuple(position for position, change in changes.items() if abs(change) >= settings.gap),
        tokens=tuple(tokens),
        curve=plain.curve(settings.confidence),
        spent=plain.expenses.spent(),
        martingale=None,
    )


def fixed(trace: Trace, settings: Settings) -> Search:
    """`rollouts` for each position at most, in steps of ten, fewer where the tokens beside it are decided.

    `stop_width` standard errors decide: the change lies surely below the gap or surely above it. 0 never stops early.
    """
    plain = PlainSamples(trace, settings.rollouts)
    positions = _candidates(trace, 0.0)
    open_tokens, count = set(positions), 0
    while open_tokens and count < settings.rollouts:
        count = min(count + FIRST, settings.rollouts) if settings.stop_width else settings.rollouts
        yield from plain.drawn({end for position in open_tokens for end in (position, position + 1)}, count)
        open_tokens = {position for position in open_tokens if not _is_decided(plain, position, settings)}
    changes = {position: plain.success(position + 1) - plain.success(position) for position in positions}
    selected = {position: change for position, change in changes.items() if abs(change) >= settings.gap}
    return (yield from plain.findings("fixed", settings, selected, [(at, at + 1) for at in positions]))


def _is_decided(plain: PlainSamples, position: int, settings: Settings) -> bool:
    change = abs(plain.success(position + 1) - plain.success(position))
    ends = [end for end in (position, position + 1) if end < len(plain.trace.tokens)]
    variance = 0.0
    for end in ends:
        n = len(plain.sampled[end])
        soft = (plain.success(end) * n + 1) / (n + 2)  # all of ten is not certainty
        variance += soft * (1 - soft) / (n + 2)
    width = settings.stop_width * math.sqrt(variance)
    return bool(settings.stop_width) and not change - width < settings.gap <= change + width


def uncertain(trace: Trace, settings: Settings) -> Search:
    """The share of tokens with the least probability; without `confirm` they are selected and nothing is estimated."""
    if not trace.has_probabilities:
        selected: list[int] = []
    else:
        count = math.ceil(settings.uncertain_share * len(trace.tokens))
        order = np.argsort(np.array(trace.probabilities), kind="stable")[:count]
        selected = sorted(int(position) for position in order if trace.probabilities[position] < 1)
    plain = PlainSamples(trace, settings.rollouts)
    if settings.confirm and selected:
        yield from plain.drawn({end for position in selected for end in (position, position + 1)}, FIRST)
        changes = {at: plain.success(at + 1) - plain.success(at) for at in selected}
        return (yield from plain.findings("uncertain", settings, changes, []))
    return Findings(
        method="uncertain",
        selected=tuple(selected),
        tokens=(),
        curve=(),
        spent=plain.expenses.spent(),
        martingale=None,
        notes=() if trace.has_probabilities else ("probabilities are unknown: no token is known to be uncertain",),
    )


def _candidates(trace: Trace, gap: float) -> list[int]:
    """Tokens with 1 - pi >= gap, or above 0 for a gap of 0; all of them where probabilities are unknown."""
    if not trace.has_probabilities:
        return list(range(len(trace.tokens)))
    return [at for at, pi in enumerate(trace.probabilities) if 1 - pi >= max(gap, 1e-12)]
