"""Scores of search results against known truth: precision, recall, coverage, false discoveries, generated tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megaphi.pivotal.methods.findings import Findings, TokenEffect
from megaphi.pivotal.methods.method import Method, answered
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.methods.simulation.simulator import Simulator
from megaphi.pivotal.methods.simulation.world import KnownWorld
from megaphi.pivotal.methods.statistics.discovery import discoveries
from megaphi.pivotal.methods.statistics.martingale import MartingaleSummary, combined


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchScore:
    """Sums over the traces of a run; a token is truly pivotal if |D| >= gap."""

    traces: int
    pivotal: int
    """True ones."""
    reported: int
    true_reported: int
    near_reported: int
    """Reported, and truly at least half of the gap."""
    null_reported: int
    """Reported, although |D| <= null_effect or of the other sign: false discoveries."""
    traces_reporting: int
    selected: int
    true_selected: int
    intervals: int
    covering: int
    """Intervals that hold the true change, of all that were estimated."""
    tokens: int
    search_tokens: int
    rollouts: int
    martingale: MartingaleSummary | None

    @property
    def precision(self) -> float:
        return self.true_reported / self.reported if self.reported else float("nan")

    @property
    def near_precision(self) -> float:
        return self.near_reported / self.reported if self.reported else float("nan")

    @property
    def recall(self) -> float:
        return self.true_reported / self.pivotal if self.pivotal else float("nan")

    @property
    def coverage(self) -> float:
        return self.covering / self.intervals if self.intervals else float("nan")

    @property
    def false_discovery_rate(self) -> float:
        return self.null_reported / self.reported if self.reported else 0.0

    @property
    def tokens_per_trace(self) -> float:
        return self.tokens / self.traces

    @property
    def tokens_per_true_pivot(self) -> float:
        return self.tokens / self.true_reported if self.true_reported else float("inf")


def searched(
    method: Method, worlds: Sequence[KnownWorld], settings: Settings, *, seed: int, shares_prefixes: bool = False
) -> list[Findings]:
    """The method on each world, with rollouts of its own."""
    return [
        answered(
            method(world.trace, settings),
            Simulator(world, seed=seed + number, shares_prefixes=shares_prefixes).answer,
        )
        for number, world in enumerate(worlds)
    ]


def score(
    worlds: Sequence[KnownWorld], findings: Sequence[Findings], settings: Settings, *, level: float = 0.05
) -> SearchScore:
    """False discoveries are controlled over all traces, as in a real run."""
    reports = discoveries(findings, gap=settings.gap, level=level)
    true = [world.pivotal(settings.gap) for world in worlds]
    pairs = [(world, token) for world, report in zip(worlds, reports, strict=True) for token in report]
    estimated = [(world, token) for world, found in zip(worlds, findings, strict=True) for token in found.tokens]
    return SearchScore(
        traces=len(worlds),
        pivotal=sum(len(positions) for positions in true),
        reported=len(pairs),
        true_reported=sum(abs(_truth(world, token)) >= settings.gap for world, token in pairs),
        near_reported=sum(abs(_truth(world, token)) >= settings.gap / 2 for world, token in pairs),
        null_reported=sum(_is_null(world, token, settings) for world, token in pairs),
        traces_reporting=sum(bool(report) for report in reports),
        selected=sum(len(found.selected) for found in findings),
        true_selected=sum(
            len(positions & set(found.selected)) for positions, found in zip(true, findings, strict=True)
        ),
        intervals=len(estimated),
        covering=sum(token.effect.low <= _truth(world, token) <= token.effect.high for world, token in estimated),
        tokens=sum(found.spent.tokens for found in findings),
        search_tokens=sum(found.spent.search_tokens for found in findings),
        rollouts=sum(found.spent.rollouts for found in findings),
        martingale=combined([found.martingale for found in findings if found.martingale is not None]),
    )


def _truth(world: KnownWorld, token: TokenEffect) -> float:
    return float(world.changes[token.position])


def _is_null(world: KnownWorld, token: TokenEffect, settings: Settings) -> bool:
    sign = 1 if token.effect.estimate > 0 else -1
    return sign * _truth(world, token) <= max(settings.null_effect, 1e-12)
