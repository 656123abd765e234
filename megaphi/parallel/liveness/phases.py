"""The phases of a training step, and what they tell of a rank that stays in one. No torch here."""

from __future__ import annotations

COMPUTED = ("data", "forward_backward", "optimizer")
"""Phases of every step in which a rank does its own work: those by which ranks are compared while they run."""
LONG = ("data", "validation", "evaluation", "metrics", "serving")
"""Phases that depend on storage, on requests, or on work of one rank alone: they may last without being a hang."""
UNLIMITED = ("start", "save")
"""Phases that no standstill ends: whole checkpoints are read and written, and to end a save is to lose it."""


def named_phase(phase: str) -> str:
    """The phase without the place that a long one has reached: `evaluation, pass 3` is `evaluation`."""
    return phase.partition(",")[0]
