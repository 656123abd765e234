"""A stream of exercises from all families, each checked, none repeated, the same for the same seed.

An exercise whose independent check fails is a bug in its family and stops the stream: no unchecked exercise is emitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from exercises import algebra, arithmetic, number_theory, python_tasks, word_problems
from exercises.exercise import Checked, Exercise

MAKERS = (
    *arithmetic.FAMILY,
    *algebra.FAMILY,
    *number_theory.FAMILY,
    *word_problems.FAMILY,
    *python_tasks.FAMILY,
)
TRIES = 100


def generate_exercises(count: int, *, seed: int) -> Iterator[Exercise]:
    """Yield `count` exercises that differ in problem or solution, taking the families in turn until they are exhausted.

    Raises:
        ValueError: all families together have fewer different exercises than `count`.
    """
    random = Random(seed)
    seen: set[str] = set()
    makers = list(MAKERS)
    made = 0
    while made < count:
        for maker in list(makers):
            exercise = _new_exercise(maker, random, seen)
            if exercise is None:
                makers.remove(maker)
            elif made < count:
                made += 1
                yield exercise
        if not makers:
            raise ValueError(f"there are only {made} different exercises with seed {seed}: ask for fewer")


def _new_exercise(maker: Callable[[Random], Checked], random: Random, seen: set[str]) -> Exercise | None:
    for _ in range(TRIES):
        checked = maker(random)
        if not checked.holds:
            raise AssertionError(f"{maker}: the check refutes the answer of {checked.exercise}")
        content = checked.exercise.problem + checked.exercise.solution
        if content not in seen:
            seen.add(content)
            return checked.exercise
    return None
