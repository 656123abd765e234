"""An evaluation from responses to results: grading, what each quirk is worth, and the records that files keep.

Responses are asked for first, for all tasks, and graded afterwards: the evaluated model and a judge may be two models
of which one is open at a time. A quirk is worth what the headline score loses when its switch is turned off, everything
else as it was, on the same responses; its interval is that of two evaluations of the same items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from megaphi.conversation import Conversation, to_plain
from megaphi.evaluation.data_files import TaskFiles
from megaphi.evaluation.results import GradedResponse, TaskResult
from megaphi.evaluation.statistics.paired import paired_difference
from megaphi.evaluation.task import (
    Asked,
    Choose,
    EvaluationTask,
    Grade,
    GradingTools,
    TaskResponse,
)
from megaphi.pivotal.methods.findings import Band
from megaphi.sampling import Sampling

NEUTRAL = asdict(Sampling())


@dataclass(frozen=True, kw_only=True, slots=True)
class AnsweredTask:
    """A task whose responses are there."""

    task: EvaluationTask
    on: frozenset[str]
    """Names of the switches that are on."""
    files: TaskFiles
    items_in_files: int
    responses: Sequence[TaskResponse]


def result_of(answered: AnsweredTask, tools: GradingTools) -> TaskResult:
    """The graded task. Raises RunFailed if the judge does not answer."""
    task, on = answered.task, answered.on
    grades = graded(task, answered.responses, on, tools)
    means = _means(task, grades)
    quirks = _quirks(answered, tools, grades)
    return TaskResult(
        task=task.name,
        scores=task.scores,
        derived={name: figure(means) for name, figure in task.derived.items()},
        switches={switch.name: switch.name in on for switch in task.switches},
        rules=_rules(task, answered.responses),
        files=answered.files.described(),
        items_in_files=answered.items_in_files,
        quirks={name: 100 * band.estimate for name, band in quirks.items()},
        quirk_intervals={name: (100 * band.low, 100 * band.high) for name, band in quirks.items()},
        responses=tuple(map(_record, answered.responses, grades)),
    )


def graded(
    task: EvaluationTask, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools
) -> list[Grade]:
    """A grade for each response, also for those that the sampler refused. Raises RunFailed."""
    answered = [response for response in responses if not response.refused]
    ready = iter(task.grade(answered, on, tools) if answered else [])
    nothing = dict.fromkeys(task.scores, 0.0)
    return [
        Grade(scores=nothing, problem="not answered", note=response.refused) if response.refused else next(ready)
        for response in responses
    ]


def _means(task: EvaluationTask, grades: Sequence[Grade]) -> dict[str, float]:
    return {name: sum(grade.scores[name] for grade in grades) / len(grades) for name in task.scores}


def _quirks(answered: AnsweredTask, tools: GradingTools, here: Sequence[Grade]) -> dict[str, Band]:
    """Switch of grading -> the headline score with it on minus with it off; none that needs a judge who is absent."""
    found = {}
    for switch in answered.task.switches:
        flipped = answered.on ^ {switch.name}
        if switch.changes != "grading" or (tools.judge is None and answered.task.judge_requests(flipped)):
            continue
        other = graded(answered.task, answered.responses, flipped, tools)
        on, off = (here, other) if switch.name in answered.on else (other, here)
        found[switch.name] = _moved(answered, on, off)
    return found


def _moved(answered: AnsweredTask, on: Sequence[Grade], off: Sequence[Grade]) -> Band:
    """The paired difference of two gradings of the same responses, over items, all of which have as many answers."""
    headline, clusters = answered.task.scores[0], {}
    scores: dict[str, list[tuple[float, float]]] = {}
    for response, first, second in zip(answered.responses, off, on, strict=True):
        item = response.item
        clusters[item.name] = item.cluster or item.name
        scores.setdefault(item.name, []).append((first.scores[headline], second.scores[headline]))
    means_N2 = np.array([np.mean(pairs, axis=0) for pairs in scores.values()])
    return paired_difference(means_N2[:, 0], means_N2[:, 1], list(clusters.values())).difference


def _rules(task: EvaluationTask, responses: Sequence[TaskResponse]) -> dict[str, Any]:
    """Rules of sampling that say something, repeats, worked examples, and the wording."""
    asked = responses[0].asked
    wording = getattr(task, "wording", {})
    if isinstance(asked, Choose):
        return {"shots": task.shots, "wording": dict(wording)}
    rules = {name: value for name, value in asdict(asked.rules).items() if value != NEUTRAL[name]}
    repeats = len(asked.prompts) or asked.repeats
    return {
        "max_tokens": asked.rules.max_tokens,
        **rules,
        "repeats": repeats,
        "shots": task.shots,
        "wording": dict(wording),
    }


def _record(response: TaskResponse, grade: Grade) -> GradedResponse:
    item = response.item
    return GradedResponse(
        item=item.name,
        repeat=response.repeat,
        cluster=item.cluster or item.name,
        group=item.group,
        question=item.question,
        gold=item.gold,
        prompt=_plain_prompt(response.asked, response.repeat),
        text=_text(response),
        tokens=response.tokens,
        finish="refused" if response.refused else response.finish,
        extracted=grade.extracted,
        scores=dict(grade.scores),
        problem=grade.problem,
        note=grade.note,
        details=_plain(grade.details),
    )


def _plain_prompt(asked: Asked, repeat: int) -> Any:
    if isinstance(asked, Choose):
        return {"context": asked.context, "continuations": list(asked.continuations)}
    prompt = asked.prompts[repeat] if asked.prompts else asked.prompt
    return to_plain(prompt) if isinstance(prompt, Conversation) else prompt


def _text(response: TaskResponse) -> str:
    """The answer; of scored continuations, the most probable one."""
    if not isinstance(response.asked, Choose) or not response.likelihoods:
        return response.text
    totals = [score.total for score in response.likelihoods]
    return response.asked.continuations[totals.index(max(totals))]


def _plain(value: Any) -> Any:
    """As JSON reads it again."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
