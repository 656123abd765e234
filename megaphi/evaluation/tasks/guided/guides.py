"""A grading guide: criteria with points, in a record with its question and a reference answer.

    {"id", "skill", "language", "level", "question", "reference",
     "guide": [{"name", "points", "earns"}, {"name", "points", "earns", "check": {…}}]}

`earns` says what earns how many points, in the words of somebody who knows the subject. A criterion with a `check` is
decided by a program; all others by the judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megaphi.errors import InputError
from megaphi.evaluation.task import Item, Record
from megaphi.evaluation.tasks.columns import column, has_column, item_name, json_value, label_column, text_column
from megaphi.evaluation.tasks.guided.checks import Check, keeps, read_check
from megaphi.judging.asking import fields_of, text_of

MOST_CRITERIA, MOST_POINTS = 20, 100
REFERENCE, GUIDE = "reference", "guide"


@dataclass(frozen=True, slots=True)
class Criterion:
    """One criterion of a guide."""

    name: str
    points: int
    """The most that it can earn."""
    earns: str
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class Guide:
    """The key of an item: its criteria and a reference answer, which earns all points."""

    criteria: tuple[Criterion, ...]
    reference: str

    @property
    def judged(self) -> list[Criterion]:
        return [one for one in self.criteria if one.check is None]

    @property
    def checked(self) -> list[Criterion]:
        return [one for one in self.criteria if one.check is not None]

    def points_by_check(self, answer: str) -> list[int]:
        """Points of the checked criteria, in their order."""
        return [one.points if one.check is not None and keeps(one.check, answer) else 0 for one in self.checked]


def guided_item(record: Record) -> Item:
    """The item of a record; its group is the skill. Raises InputError."""
    question, reference = text_column(record, "question"), text_column(record, REFERENCE)
    name, value = column(record, GUIDE)
    listed = json_value(value)
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_CRITERIA:
        raise InputError(f"column {name!r} must be a list of 1 to {MOST_CRITERIA} criteria")
    criteria = tuple(_criterion(one, number) for number, one in enumerate(listed, start=1))
    names = [one.name for one in criteria]
    if len(set(names)) < len(names):
        raise InputError(f"column {name!r}: two criteria have the name {max(names, key=names.count)!r}")
    guide = Guide(criteria, reference)
    if not guide.judged:
        raise InputError(f"column {name!r}: at least one criterion must be for the judge, without a check")
    return Item(
        name=item_name(record, "id", question),
        question=question,
        gold=reference,
        key=guide,
        cluster=label_column(record, "cluster"),
        group=label_column(record, "skill"),
    )


def _criterion(value: Any, number: int) -> Criterion:
    try:
        has_check = isinstance(value, dict) and has_column(value, "check")
        names = ("name", "points", "earns", *(("check",) if has_check else ()))
        present = {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value
        fields = fields_of(present, names)
        name, earns = text_of(fields["name"], "name"), text_of(fields["earns"], "earns")
        if type(fields["points"]) is not int or not 1 <= fields["points"] <= MOST_POINTS:
            raise InputError(f"'points' must be a whole number from 1 to {MOST_POINTS}")
        return Criterion(name, fields["points"], earns, read_check(fields["check"]) if has_check else None)
    except InputError as error:
        raise InputError(f"column {GUIDE!r}: criterion {number}: {error}") from None
