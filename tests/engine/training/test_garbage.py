"""Garbage in a training loop: collected at given steps and at no other time, and as before when the loop ends."""

from __future__ import annotations

import gc
import weakref

import pytest

from megaphi.engine.training.garbage import STEPS_BETWEEN, GarbageCollection


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_collected_at_its_steps_and_at_no_other_time() -> None:
    was_frozen = gc.get_freeze_count()
    with GarbageCollection() as garbage:
        assert gc.get_freeze_count() > was_frozen
        left = weakref.ref(Cycle())
        assert [[Cycle()] for _ in range(20_000)]  # ten times what would start a collection
        garbage.after(STEPS_BETWEEN + 1)
        assert left() is not None
        garbage.after(2 * STEPS_BETWEEN)
        assert left() is None
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_loop_that_fails_leaves_the_collector_as_it_was() -> None:
    gc.disable()
    try:
        with pytest.raises(ValueError, match="a step"), GarbageCollection():
            raise ValueError("a step")
        assert not gc.isenabled()
    finally:
        gc.enable()
