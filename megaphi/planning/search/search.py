"""The fastest plans that fit, and why all others are none of them.

Every choice is refused by a rule, too large, or fits. Those that fit are walked through from the one with the lowest
bound of its time on, until no other can be faster than the slowest that is wanted: the result is that of pricing all.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field

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


def search(question: PlanQuestion, *, top: int = 10) -> Found:
    """Price the whole space."""
    pricing = Pricing(question)
    refused: Counter[str] = Counter()
    examples: dict[str, str] = {}
    fitting: list[tuple[float, int, PlanChoice]] = []
    too_large: list[tuple[float, int, PlanChoice, int, int]] = []
    least = 0
    for number, choice in enumerate(choices_of(question, head_layers=pricing.head_layers)):
        if isinstance(choice, Refused):
            refused[choice.reason] += choice.choices
            examples.setdefault(choice.reason, choice.example)
            continue
        size, stage = _largest(pricing.memory(choice))
        least = min(least or size, size)
        if size <= question.memory_bytes:
            fitting.append((pricing.bound(choice), number, choice))
        else:
            refused[MEMORY] += 1
            too_large.append((pricing.bound(choice), number, choice, size, stage))
    plans = _fastest(pricing, fitting, top=top)
    misses = _near_misses(too_large, fastest=plans[0].time.seconds if plans else None)
    if misses:
        examples[MEMORY] = f"{misses[0].choice}: {misses[0].bytes / 1e9:.0f} GB on stage {misses[0].stage}"
    return Found(
        plans=plans,
        space=size_of(question),
        fitting=len(fitting),
        refused=refused,
        examples=examples,
        misses=misses,
        least_bytes=least,
    )


def _largest(stages: list[StageMemory]) -> tuple[int, int]:
    """(bytes, stage) of the stage that needs most; of several the first."""
    sizes = [stage.total for stage in stages]
    return max(sizes), sizes.index(max(sizes))


def _fastest(pricing: Pricing, fitting: list[tuple[float, int, PlanChoice]], *, top: int) -> list[Plan]:
    """Plans by their time; equally fast ones by the memory that they leave."""
    best: list[tuple[float, int, int, PlanChoice]] = []
    for bound, number, choice in sorted(fitting, key=lambda entry: entry[:2]):
        if len(best) == top and bound > best[-1][0]:
            break
        size, _ = _largest(pricing.memory(choice))
        best = heapq.nsmallest(top, [*best, (pricing.seconds(choice), size, number, choice)])
    return [
        Plan(
            choice=choice,
            time=step_time(pricing.step(choice), pricing.question.device),
            memory=pricing.memory(choice),
        )
        for _, _, _, choice in best
    ]


def _near_misses(
    too_large: list[tuple[float, int, PlanChoice, int, int]], *, fastest: float | None, most: int = 5
) -> list[Miss]:
    """The smallest of what is too large, one for all choices of the same ranks: first those that might be faster."""

    def key(entry: tuple[float, int, PlanChoice, int, int]) -> tuple[bool, int]:
        seconds, _, _, size, _ = entry
        return fastest is not None and seconds >= fastest, size

    found: dict[tuple[int, int, int], Miss] = {}
    for seconds, _, choice, size, stage in sorted(too_large, key=key):
        ranks = (choice.layout.tensor, choice.layout.pipeline, choice.layout.context)
        found.setdefault(ranks, Miss(choice=choice, seconds=seconds, bytes=size, stage=stage))
        if len(found) == most:
            break
    return list(found.values())
