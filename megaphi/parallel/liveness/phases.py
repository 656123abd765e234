"""The phases of a training step, in their order, and what they tell of a rank that stays in one. No torch here."""

from __future__ import annotations

ORDER = (
    "start",
    "data",
    "forward_backward",
    "gradients",
    "optimizer",
    "exchange",
    "validation",
    "evaluation",
    "metrics",
    "save",
)
"""Order within a step: a rank waits for those that are in an earlier phase."""
COMPUTED = ("data", "forward_backward", "optimizer")
"""Phases of every step in which a rank does its own work: those by which ranks are compared while they run."""
LONG = ("start", "data", "validation", "evaluation", "save", "serving")
"""Phases that depend on storage, on requests, or on work of one rank alone: they may last without being a hang."""


def named_phase(phase: str) -> str:
    """The phase without the place that a long one has reached: `evaluation, pass 3` is `evaluation`."""
    return phase.partition(",")[0]


def place_in_order(step: int, phase: str) -> tuple[int, int]:
    """A place in the run; a smaller one is behind."""
    name = named_phase(phase)
    return step, ORDER.index(name) if name in ORDER else len(ORDER)
