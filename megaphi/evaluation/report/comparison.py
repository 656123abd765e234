"""Evaluations against each other: are they comparable, by how much do they differ, and could that be chance?

The first is the one that the others are compared with, over the items that both have, item by item. Two evaluations are
comparable if they asked the same questions in the same way and graded by the same rules; what differs is refused by
name, all of it at once, unless the user allows it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from megaphi.errors import InputError, did_you_mean
from megaphi.evaluation.report.summary import mean_score
from megaphi.evaluation.results import Evaluation, GradedResponse, TaskResult
from megaphi.evaluation.statistics.paired import PairedDifference, holm, paired_difference
from megaphi.pivotal.methods.findings import Band

REASONS = {
    "protocol": "the protocols",
    "judge": "the judges",
    "switches": "switches of quirks",
    "rules": "rules of sampling, repeats or shots",
    "wording": "templates of the prompts",
    "files": "data files, by their hashes",
    "items": "items: those that both have are compared",
    "questions": "questions or right answers of items of the same name",
}
"""Causes of a refusal, as `--allow` names it."""


@dataclass(frozen=True, slots=True)
class ItemScore:
    """An item's mean score over its answers."""

    score: float
    cluster: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedTask:
    """A task of an evaluation against the same task of the first one."""

    task: str
    subset: str
    """"" for all items."""
    name: str
    """The evaluation, as the user named it."""
    first: Band
    second: Band
    paired: PairedDifference
    changed: tuple[tuple[str, float, float], ...]
    """Items whose score changed, with both scores; the largest changes first."""
    problems: tuple[int, int]
    adjusted_p: float = 1.0
    """By Holm, over all tasks and evaluations of this comparison."""


def compare(
    evaluations: Mapping[str, Evaluation],
    *,
    allowed: Collection[str] = (),
    tasks: Sequence[str] = (),
    score: str = "",
    left_out: Mapping[str, Collection[str]] | None = None,
) -> list[ComparedTask]:
    """Args:
    evaluations: at least two, by the names that the user gave; all are compared with the first.
    allowed: names of `REASONS` that may differ.
    tasks: names of tasks to compare; () for all that every evaluation has.
    score: name of the score; "" for each task's headline score.
    left_out: task to items that a second comparison of it leaves out (contaminated ones).

    Raises:
        InputError: they are not comparable, or have no such task or score.
    """
    (first_name, first), *others = evaluations.items()
    names = _tasks(evaluations, tasks)
    reasons: dict[str, str] = {}
    for name, other in others:
        for reason, said in differences(first, other, names).items():
            reasons.setdefault(reason, f"{first_name} and {name}: {said}")
    refused = {reason: said for reason, said in reasons.items() if reason not in allowed}
    if refused:
        told = "\n".join(f"  {reason}: {said}" for reason, said in refused.items())
        options = " ".join(f"--allow {reason}" for reason in refused)
        raise InputError(f"these evaluations are not comparable:\n{told}\nCompare them all the same with {options}")
    found = []
    for task in names:
        for name, other in others:
            pair = first.tasks[task], other.tasks[task]
            found.append(_compared(task, name, pair, score, frozenset(), ""))
            dropped = frozenset((left_out or {}).get(task, ()))
            if dropped:
                found.append(_compared(task, name, pair, score, dropped, "without contaminated items"))
    return with_adjusted_p(found)


def with_adjusted_p(rows: Sequence[ComparedTask]) -> list[ComparedTask]:
    """Rows with Holm's p values; subsets are the same question asked again, and are not counted."""
    whole = [place for place, row in enumerate(rows) if not row.subset]
    adjusted = dict(zip(whole, holm([rows[place].paired.p_value for place in whole]), strict=True))
    return [replace(row, adjusted_p=adjusted.get(place, row.paired.p_value)) for place, row in enumerate(rows)]


def _tasks(evaluations: Mapping[str, Evaluation], wanted: Sequence[str]) -> list[str]:
    for task in wanted:
        for name, one in evaluations.items():
            if task not in one.tasks:
                known = ", ".join(one.tasks)
                raise InputError(f"{name} has no task {task!r}: it has {known}.{did_you_mean(task, one.tasks)}")
    first, *others = evaluations.values()
    shared = [task for task in first.tasks if all(task in one.tasks for one in others)]
    if not wanted and not shared:
        told = "; ".join(f"{name} has {', '.join(one.tasks) or 'none'}" for name, one in evaluations.items())
        raise InputError(f"no task is in all of these evaluations: {told}")
    return list(dict.fromkeys(wanted)) or shared


def unshared_tasks(evaluations: Mapping[str, Evaluation]) -> dict[str, list[str]]:
    """Tasks that not every evaluation has, with the evaluations that have them."""
    names = dict.fromkeys(task for one in evaluations.values() for task in one.tasks)
    having = {task: [name for name, one in evaluations.items() if task in one.tasks] for task in names}
    return {task: found for task, found in having.items() if len(found) < len(evaluations)}


def differences(first: Evaluation, second: Evaluation, tasks: Sequence[str]) -> dict[str, str]:
    """Names of `REASONS` that make two evaluations incomparable in these tasks, each with the first example."""
    found: dict[str, str] = {}
    if first.protocol != second.protocol:
        found["protocol"] = f"{first.protocol} and {second.protocol}"
    if first.judge != second.judge:
        found["judge"] = f"{first.judge or 'none'} and {second.judge or 'none'}"
    for task in tasks:
        for reason, said in _task_differences(first.tasks[task], second.tasks[task]).items():
            found.setdefault(reason, f"{task}: {said}")
    return {reason: found[reason] for reason in REASONS if reason in found}


def _task_differences(first: TaskResult, second: TaskResult) -> dict[str, str]:
    found: dict[str, str] = {}
    if said := _unequal(first.switches, second.switches):
        found["switches"] = said
    for reason, names in (
        ("wording", {"wording"}),
        ("rules", (set(first.rules) | set(second.rules)) - {"wording", "seed"}),
    ):
        rules = ({name: value for name, value in one.rules.items() if name in names} for one in (first, second))
        if said := _unequal(*rules):
            found[reason] = said
    hashes = [{str(file.get("sha256")) for file in one.files} for one in (first, second)]
    if hashes[0] != hashes[1]:
        found["files"] = f"{len(hashes[0] ^ hashes[1])} files of one have no equal in the other"
    texts = [{one.item: (one.question, one.gold) for one in result.responses} for result in (first, second)]
    if texts[0].keys() != texts[1].keys():
        shared = texts[0].keys() & texts[1].keys()
        found["items"] = f"{len(texts[0]):,} and {len(texts[1]):,} items, {len(shared):,} of them in both"
    other = next((item for item, text in texts[0].items() if texts[1].get(item, text) != text), None)
    if other is not None:
        found["questions"] = f"item {other} has another question or right answer"
    return found


def _unequal(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    for name in sorted({*first, *second}):
        left, right = first.get(name), second.get(name)
        if left != right:
            return f"{name} is {_short(left)} and {_short(right)}"
    return ""


def _short(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _compared(
    task: str, name: str, pair: tuple[TaskResult, TaskResult], score: str, dropped: frozenset[str], subset: str
) -> ComparedTask:
    wanted = score or pair[0].scores[0]
    for one in pair:
        if wanted not in one.scores:
            raise InputError(f"task {task} has no score {wanted!r}: it has {', '.join(one.scores)}")
    shared = {one.item for one in pair[0].responses} & {one.item for one in pair[1].responses} - dropped
    kept = [[one for one in result.responses if one.item in shared] for result in pair]
    if not shared:
        raise InputError(f"task {task}: no item {subset or 'is in both evaluations'}")
    scores = [item_scores(rows, wanted) for rows in kept]
    items = sorted(shared)
    values = [np.array([found[item].score for item in items]) for found in scores]
    paired = paired_difference(
        values[0],
        values[1],
        [scores[0][item].cluster for item in items],
        answers_per_item=len(kept[1]) / len(items),
    )
    moved = [(item, float(a), float(b)) for item, a, b in zip(items, *values, strict=True) if abs(a - b) > 1e-12]
    return ComparedTask(
        task=task,
        subset=subset,
        name=name,
        first=mean_score(kept[0], wanted).interval(),
        second=mean_score(kept[1], wanted).interval(),
        paired=paired,
        changed=tuple(sorted(moved, key=lambda one: (-abs(one[2] - one[1]), one[0]))),
        problems=(sum(bool(one.problem) for one in kept[0]), sum(bool(one.problem) for one in kept[1])),
    )


def item_scores(responses: Sequence[GradedResponse], name: str) -> dict[str, ItemScore]:
    scores: dict[str, list[float]] = {}
    clusters: dict[str, str] = {}
    for one in responses:
        scores.setdefault(one.item, []).append(one.scores[name])
        clusters.setdefault(one.item, one.cluster)
    return {item: ItemScore(sum(found) / len(found), clusters[item]) for item, found in scores.items()}
