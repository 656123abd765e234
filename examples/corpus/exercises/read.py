"""A reader that makes its documents: exercises, four to a document, the same for the same settings.

A model that writes good exercises does not come with the repository; with one of yours, `synthetic_problems` is the
recipe. Here the answers are right because each was checked, and the texts are as varied as 24 families make them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Annotated, ClassVar

from exercises.generate import generate_exercises
from megaphi.config import Range
from megaphi.curation.document import Document, Outcome
from megaphi.curation.step import Portion

TOGETHER = 4
"""Exercises of a document."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadExercises:
    """Exercises that are made as they are read."""

    VERSION: ClassVar[int] = 1

    count: Annotated[int, Range(minimum=1)] = 12_000
    """Exercises."""
    seed: int = 20_412

    def portions(self) -> Sequence[Portion]:
        """One: which exercises are new depends on those before."""
        return [Portion(name="exercises", size_bytes=200 * self.count, fingerprint=f"{self.count} {self.seed}")]

    def read(self, portion: Portion) -> Iterator[Outcome]:
        """Documents of four exercises, of any family."""
        random = Random(self.seed)
        texts = [exercise.text(random) for exercise in generate_exercises(self.count, seed=self.seed)]
        random.shuffle(texts)
        for number, start in enumerate(range(0, len(texts), TOGETHER)):
            name = f"exercises/{number}"
            text = "\n\n\n".join(texts[start : start + TOGETHER])
            yield Document(id=name, source=portion.name, place=name, text=text, metadata={"origin": "exercises"})
