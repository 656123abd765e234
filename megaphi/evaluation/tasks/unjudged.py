"""The common part of most tasks: no judge grades them, and a question that stands twice in their files is asked twice.

Tasks inherit these values and say the rest: name, columns, scores, wording, and how they read, ask and grade. A task
whose records have ids of their own is an `UnjudgedTask`: two records of one id are an error in its files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from megaphi.evaluation.task import Item, Switch
from megaphi.evaluation.tasks.columns import with_repetitions


@dataclass(frozen=True, kw_only=True, slots=True)
class UnjudgedTask:
    """Fields and methods of `task.EvaluationTask` that have one value in most tasks."""

    switches: tuple[Switch, ...] = ()
    derived: Mapping[str, Callable[[Mapping[str, float]], float]] = field(default_factory=dict)
    shots: int = 0

    def judge_requests(self, on: frozenset[str]) -> int:
        return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionTask(UnjudgedTask):
    """A task of questions, of which a file can hold one twice."""

    def arranged(self, items: Sequence[Item]) -> list[Item]:
        return with_repetitions(items)
