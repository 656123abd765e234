"""The most that a recipe's steps which ask a model would cost, before anything is asked.

Each document of the input is followed through the steps by itself, so that no more than one is held. A step that asks
a model says what it may ask about a document, and what it passes on at most; all other steps are taken to keep all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from megaphi.curation.document import Document
from megaphi.curation.requests.cost import Cost, CountTokens, bytes_of
from megaphi.curation.requests.opening import Prices


@dataclass(frozen=True, slots=True)
class Expected:
    """A document on its way, of which only the length may be known."""

    tokens: int
    document: Document | None = None
    is_made: bool = False
    """True for a result of a step before, which the next ones may pass on as it is."""


@runtime_checkable
class AskingStep(Protocol):
    """A step whose requests can be bounded before they are sent."""

    @property
    def label(self) -> str:
        """Its name in messages about costs."""
        ...

    @property
    def budget_tokens(self) -> int | None: ...

    @property
    def prompt_price(self) -> float: ...

    @property
    def answer_price(self) -> float: ...

    def bound(self, expected: Expected, count: CountTokens) -> tuple[Cost, list[Expected]]:
        """The most that its requests about one document cost, and the documents that it passes on at most."""
        ...


@dataclass(frozen=True, slots=True)
class StepCost:
    """The bound of one step."""

    label: str
    documents: int
    """That it is given, at most."""
    cost: Cost
    money: float
    budget_tokens: int | None

    def __str__(self) -> str:
        one = self.cost
        money = f", {self.money:,.2f} in money" if self.money else ""
        budget = f"; it stops at its budget of {self.budget_tokens:,} tokens" if self.budget_tokens is not None else ""
        return (
            f"{self.label}: at most {self.documents:,} documents, {one.requests:,} requests, {one.answers:,} answers, "
            f"{one.prompt_tokens:,} tokens of prompts and {one.answer_tokens:,} of answers{money}{budget}"
        )


def asks_a_model(step: object) -> bool:
    """Return whether a step is one of those whose costs are known here."""
    return isinstance(step, AskingStep)


def costs_of_steps(
    steps: Sequence[object], documents: Iterable[Document], *, count: CountTokens = bytes_of
) -> list[StepCost]:
    """Bounds of those steps that ask a model, in order.

    Args:
        count: tokens of a text; by default the bytes, which are more.

    Raises:
        InputError: a step names something that is not there.
    """
    asking = [step for step in steps if isinstance(step, AskingStep)]
    sums = [(0, Cost())] * len(asking)
    for document in documents:
        expected = [Expected(count(document.text) or len(document.content), document)]
        for place, step in enumerate(asking):
            given, cost = sums[place]
            bounds = [step.bound(one, count) for one in expected]
            sums[place] = (given + len(expected), sum((own for own, _ in bounds), cost))
            expected = [one for _, following in bounds for one in following]
    return [_step_cost(step, given, cost) for step, (given, cost) in zip(asking, sums, strict=True)]


def _step_cost(step: AskingStep, given: int, cost: Cost) -> StepCost:
    prices = Prices(step.prompt_price, step.answer_price)
    money = prices.of(prompt_tokens=cost.prompt_tokens, answer_tokens=cost.answer_tokens)
    return StepCost(step.label, given, cost, money, step.budget_tokens)
