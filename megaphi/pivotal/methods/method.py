"""The protocol of a search method: a coroutine that yields the draws it wants and is sent their rollouts.

It holds no sampler, so one method runs on a simulator, on our engine and on an endpoint, and hundreds of questions run
side by side: whoever drives them joins the draws of all into one batch. `answered` drives one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeAlias

from megaphi.pivotal.methods.findings import Findings
from megaphi.pivotal.methods.rollout import Draw, Rollout
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.methods.trace import Trace

Search: TypeAlias = Generator[list[Draw], list[list[Rollout]], Findings]
"""Yields draws, which stand in no order among themselves; is sent, for each draw, its `count` rollouts in the order of
their numbers; returns the findings."""
Method: TypeAlias = Callable[[Trace, Settings], Search]


def answered(search: Search, answer: Callable[[Sequence[Draw]], list[list[Rollout]]]) -> Findings:
    """The findings of `search`, with `answer` giving the rollouts of each batch of draws."""
    try:
        draws = next(search)
        while True:
            draws = search.send(answer(draws))
    except StopIteration as end:
        return end.value
