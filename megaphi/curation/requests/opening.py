"""Opening what the steps ask: the writer and the judge under one budget and one journal, and showing what they cost."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from megaphi.curation.requests.metered import MeteredSampler, RequestCounts
from megaphi.curation.requests.step_journal import StepJournal
from megaphi.curation.step import StepContext
from megaphi.log import logger

SECONDS_BETWEEN_COSTS = 30.0


@dataclass(frozen=True, slots=True)
class Prices:
    """Money for a million tokens."""

    prompt: float = 0.0
    answer: float = 0.0

    def of(self, *, prompt_tokens: int, answer_tokens: int) -> float:
        return (prompt_tokens * self.prompt + answer_tokens * self.answer) / 1e6


@dataclass(kw_only=True, slots=True)
class StepSamplers:
    """The samplers of one step in this process."""

    writer: MeteredSampler
    judge: MeteredSampler
    journal: StepJournal
    usage: RequestCounts
    prices: Prices
    label: str
    _shown: float = field(default=0.0)

    def costs(self) -> str:
        """The requests of this process, and the tokens that all of them have paid for, for a person."""
        one, journal = self.usage, self.journal
        money = self.prices.of(prompt_tokens=journal.prompt_tokens, answer_tokens=journal.answer_tokens)
        paid = f"{journal.prompt_tokens:,} + {journal.answer_tokens:,} tokens of prompts and answers paid for in all"
        return (
            f"{self.label}: {one.prompts:,} prompts sent, {one.replayed:,} known from before, "
            f"{one.over_budget:,} over the budget; {paid}{f', {money:,.2f} in money' if money else ''}"
        )

    def show_costs(self) -> None:
        """Say what it has cost, now and then."""
        now = time.monotonic()
        if not self._shown or now - self._shown >= SECONDS_BETWEEN_COSTS:
            self._shown = now
            logger.info("%s", self.costs())


def open_samplers(
    context: StepContext, *, writer: str, judge: str, budget_tokens: int | None, prices: Prices, label: str
) -> StepSamplers:
    """Raises InputError for a sampler that cannot be opened, or a damaged journal."""
    journal, usage = StepJournal(context.folder), RequestCounts()

    def metered(place: str) -> MeteredSampler:
        return MeteredSampler(
            context.open_sampler(place), journal, place=place, budget_tokens=budget_tokens, usage=usage
        )

    writing = metered(writer)
    judging = metered(judge) if judge and judge != writer else writing
    return StepSamplers(writer=writing, judge=judging, journal=journal, usage=usage, prices=prices, label=label)
