"""The fastest plans that fit, and why all others are none of them.

Every choice is refused by a rule, too large, or fits. Those that fit are walked through from the one with the lowest
bound of its time on, until no other can be faster than the slowest that is wanted: the result is that of pricing all.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from megaphi.planning.search.pricing import Pricing, StageMemory
from megaphi.planning.search.space import PlanChoice, PlanQuestion, Refused, choices_of, size_of
from megaphi.planning.step.step_time import StepTime, step_time

MEMORY = "more memory than there is"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A choice that fits."""

    choice: PlanChoice
    time: StepTime
    memory: list[StageMemory]

    @property
    def largest(self) -> int:
        """The stage that needs most."""
        return max(range(len(self.memory)), key=lambda stage: self.memory[stage].total)


@dataclass(frozen=True, kw_only=True, slots=True)
class Miss:
    """A choice that does not fit."""

    choice: PlanChoice
    seconds: float
    """At least."""
    bytes: int
    stage: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """The answer to a question."""

    plans: list[Plan]
    """The fastest first."""
    space: int
    """Choices in all."""
    fitting: int
    refused: Counter[str] = field(default_factory=Counter)
    """Choices by the reason that refuses them."""
    examples: dict[str, str] = field(default_factory=dict)
    """For every reason the first choice that it refused, in numbers."""
    misses: list[Miss] = field(default_factory=list)
    """The smallest of what does not fit, one for all that share their ranks: first those that might be faster."""
    least_bytes: int = 0
    """Memory of the smallest choice."""


class Priced(NamedTuple):
    """A choice with what a search needs of it, in the order in which it is looked at."""

    bound: float
    """Seconds of a step at least."""
    number: int
    """Place in the space: of equally fast choices the first comes first."""
    choice: PlanChoice
    size: int
    """Bytes of the stage that needs most."""
    stage: int


def search(question: PlanQuestion, *, top: int = 10) -> Found:
    """Price the whole space."""
    pricing = Pricing(question)
    refused: Counter[str] = Counter()
    examples: dict[str, str] = {}
    fitting: list[Priced] = []
    too_large: list[Priced] = []
    for number, choice in enumerate(choices_of(question, head_layers=pricing.head_layers)):
        if isinstance(choice, Refused):
            refused[choice.reason] += choice.choices
            examples.setdefault(choice.reason, choice.example)
            continue
        sizes = [stage.total for stage in pricing.memory(choice)]
        size = max(sizes)
        priced = Priced(pricing.bound(choice), number, choice, size, sizes.index(size))
        (fitting if size <= question.memory_bytes else too_large).append(priced)
    plans = _fastest(pricing, fitting, top=top)
    misses = _near_misses(too_large, fastest=plans[0].time.seconds if plans else None)
    if too_large:
        refused[MEMORY] = len(too_large)
        examples[MEMORY] = f"{misses[0].choice}: {misses[0].bytes / 1e9:.0f} GB on stage {misses[0].stage}"
    return Found(
        plans=plans,
        space=size_of(question),
        fitting=len(fitting),
        refused=refused,
        examples=examples,
        misses=misses,
        least_bytes=min((priced.size for priced in (*fitting, *too_large)), default=0),
    )


def _fastest(pricing: Pricing, fitting: list[Priced], *, top: int) -> list[Plan]:
    """Plans by their time; equally fast ones by the memory that they leave."""
    best: list[tuple[float, int, Priced]] = []
    for priced in sorted(fitting):
        if len(best) == top and priced.bound > best[-1][0]:
            break
        best = heapq.nsmallest(top, [*best, (pricing.seconds(priced.choice), priced.size, priced)])
    return [
        Plan(
            choice=priced.choice,
            time=step_time(pricing.step(priced.choice), pricing.question.device),
            memory=pricing.memory(priced.choice),
        )
        for _, _, priced in best
    ]


def _near_misses(too_large: list[Priced], *, fastest: float | None, most: int = 5) -> list[Miss]:
    """The smallest of what is too large, one for all choices of the same ranks: first those that might be faster."""
    found: dict[tuple[int, int, int], Miss] = {}
    for priced in sorted(too_large, key=lambda one: (fastest is not None and one.bound >= fastest, one.size)):
        layout = priced.choice.layout
        miss = Miss(choice=priced.choice, seconds=priced.bound, bytes=priced.size, stage=priced.stage)
        found.setdefault((layout.tensor, layout.pipeline, layout.context), miss)
        if len(found) == most:
            break
    return list(found.values())
