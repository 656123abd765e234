"""A task's graded responses in figures: scores with intervals, problems, groups, and functions of the means.

Responses with a problem (no answer extracted, truncated, judge failed, undecided, not answered) are never dropped: the
headline score comes as the protocol graded it, with every such response wrong, and without them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from megaphi.decontamination.rule import STATUSES
from megaphi.errors import InputError
from megaphi.evaluation.results import GradedResponse, TaskResult
from megaphi.evaluation.statistics.clustered import ClusteredEstimate, Floats, clustered_function, clustered_mean
from megaphi.evaluation.tasks import find_task
from megaphi.pivotal.methods.findings import Band

MOST_GROUPS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSummary:
    """A task's figures; scores are shares of 1."""

    result: TaskResult
    items: int
    graded: ClusteredEstimate
    """The headline score, as graded."""
    as_wrong: Band
    """With every response that has a problem wrong."""
    left_out: Band | None
    """Without those responses; None if nothing is left."""
    problems: Mapping[str, int]
    others: Mapping[str, Band]
    """Further scores, by name, as graded."""
    derived: Mapping[str, Band | float]
    """Functions of the means; a bare number where this version does not know the function."""
    groups: Mapping[str, tuple[int, Band]]
    """Items and headline score of each group, wider ones before those within them."""
    contamination: Mapping[str, tuple[int, Band]]
    """Items and headline score by status of contamination; {} where none is known."""

    @property
    def score(self) -> Band:
        return self.graded.interval()


def summary_of(result: TaskResult, *, statuses: Mapping[str, str] | None = None) -> TaskSummary:
    """Args:
    statuses: item to its status of contamination.

    Raises:
        InputError: a task without responses.
    """
    responses = result.responses
    if not responses:
        raise InputError(f"task {result.task} has no graded responses: evaluate it again")
    headline = result.scores[0]
    sound = [one for one in responses if not one.problem]
    as_wrong = [0.0 if one.problem else one.scores[headline] for one in responses]
    return TaskSummary(
        result=result,
        items=len({one.item for one in responses}),
        graded=mean_score(responses, headline),
        as_wrong=clustered_mean(as_wrong, [one.cluster for one in responses]).interval(),
        left_out=mean_score(sound, headline).interval() if sound else None,
        problems=dict(Counter(one.problem for one in responses if one.problem).most_common()),
        others={name: mean_score(responses, name).interval() for name in result.scores[1:]},
        derived=_derived(result),
        groups=_groups(responses, headline),
        contamination=_by_status(responses, headline, statuses or {}),
    )


def mean_score(responses: Sequence[GradedResponse], name: str) -> ClusteredEstimate:
    return clustered_mean([one.scores[name] for one in responses], [one.cluster for one in responses])


def _derived(result: TaskResult) -> dict[str, Band | float]:
    """Their intervals come from the task's own functions, if these give the recorded values."""
    try:
        functions = find_task(result.task).derived
    except InputError:  # a task of the user's own, or of another version
        functions = {}
    found: dict[str, Band | float] = {}
    for name, recorded in result.derived.items():
        band = _function_band(functions[name], result) if name in functions else None
        found[name] = (
            band if band is not None and abs(band.estimate - recorded) <= 1e-6 * max(1, abs(recorded)) else recorded
        )
    return found


def _function_band(function: Callable[[Mapping[str, float]], float], result: TaskResult) -> Band | None:
    def of_means(means_K: Floats) -> float:
        return function(dict(zip(result.scores, map(float, means_K), strict=True)))

    scores_NK = np.array([[one.scores[name] for name in result.scores] for one in result.responses])
    try:
        return clustered_function(of_means, scores_NK, [one.cluster for one in result.responses]).interval()
    except (ZeroDivisionError, ValueError):
        return None


def _groups(responses: Sequence[GradedResponse], headline: str) -> dict[str, tuple[int, Band]]:
    """`stem/anatomy` counts for `stem` too; no groups where all are in one, or too many for a table."""
    members: dict[str, list[GradedResponse]] = defaultdict(list)
    for one in responses:
        parts = one.group.split("/") if one.group else []
        for depth in range(1, len(parts) + 1):
            members["/".join(parts[:depth])].append(one)
    if len(members) > MOST_GROUPS:
        members = {name: found for name, found in members.items() if "/" not in name}
    if not 1 < len(members) <= MOST_GROUPS:
        return {}
    return {
        name: (len({one.item for one in members[name]}), mean_score(members[name], headline).interval())
        for name in sorted(members, key=_in_order)
    }


def _by_status(
    responses: Sequence[GradedResponse], headline: str, statuses: Mapping[str, str]
) -> dict[str, tuple[int, Band]]:
    found = {}
    for status in STATUSES:
        members = [one for one in responses if statuses.get(one.item) == status]
        if members:
            found[status] = len({one.item for one in members}), mean_score(members, headline).interval()
    return found


def _in_order(name: str) -> list[tuple[int, int, str]]:
    """Numbers by their value, before words: the lengths of contexts."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in name.split("/")]
