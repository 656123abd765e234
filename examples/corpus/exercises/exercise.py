"""A worked exercise, and the vocabulary that keeps ten thousand of them from reading alike."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

NAMES = (
    "Ada Amir Ana Ben Bo Carla Chen Dana Deniz Elif Emil Fatima Felix Grace Hana Hugo Ines Ivan Jana Jonas Kemal Lea "
    "Lina Mara Mateo Maya Mina Nils Noor Olga Omar Paula Priya Rafael Rosa Sami Sofia Tariq Theo Uma Vera Yuki Zoe"
).split()
GOODS = (
    "apples books bricks candles cards coins cups eggs flowers lamps marbles mugs notebooks oranges pencils plates "
    "ribbons seeds shells stamps stones tickets tiles toys"
).split()


@dataclass(frozen=True, slots=True)
class Exercise:
    """A problem, how to solve it, and the answer; `generate_exercises` has checked the answer independently."""

    topic: str
    problem: str
    solution: str
    answer: str

    def text(self, random: Random) -> str:
        """The exercise as a document, under one of several headings."""
        ask, work, end = random.choice(
            [
                ("Problem: ", "Solution: ", "Answer: "),
                ("Question: ", "Reasoning: ", "So the answer is "),
                ("Exercise. ", "Let us work it out. ", "Result: "),
                ("", "", "Therefore: "),
                ("Task: ", "Steps:\n", "Final answer: "),
            ]
        )
        return f"{ask}{self.problem}\n\n{work}{self.solution}\n\n{end}{self.answer}"


@dataclass(frozen=True, slots=True)
class Checked:
    """An exercise with the outcome of its independent check."""

    exercise: Exercise
    holds: bool
