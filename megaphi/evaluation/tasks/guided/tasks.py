"""The task `guided`: one answer to each question, graded by two passes of a judge and by checks of form.

The score is the share of the guide's points, the judge's as the mean of its two passes. An answer without text earns
nothing and is not judged; an answer for which a pass has no readable verdicts is `judge failed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megaphi.evaluation.task import Asked, Continue, Grade, GradingTools, Item, Record, Switch, TaskResponse
from megaphi.evaluation.tasks.columns import with_repetitions
from megaphi.evaluation.tasks.guided.agreement import MOMENTS, moments, share_equal, weighted_kappa
from megaphi.evaluation.tasks.guided.guides import GUIDE, REFERENCE, Guide, guided_item
from megaphi.evaluation.tasks.guided.judge_passes import MOST_REQUESTS, CriterionVerdict, judged_in_passes
from megaphi.evaluation.tasks.quirks import without_answer
from megaphi.evaluation.tasks.wording import conversation, filled
from megaphi.sampling import Sampling

SCORES: tuple[str, ...] = ("score", "agreement", *MOMENTS)
NOTHING: Mapping[str, float] = dict.fromkeys(SCORES, 0.0)
RULES = Sampling(max_tokens=2_048, temperature=0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidedTask:
    """Open questions, each with criteria and points."""

    name: str = "guided"
    about: str = "Open questions graded by a judge along a guide, in two passes (examples/guided_questions: 44 of ours)"
    columns: tuple[str, ...] = ("question", GUIDE, REFERENCE)
    scores: tuple[str, ...] = SCORES
    derived: Mapping[str, Callable[[Mapping[str, float]], float]] = field(
        default_factory=lambda: {"weighted_kappa": weighted_kappa}
    )
    switches: tuple[Switch, ...] = ()
    shots: int = 0
    rules: Sampling = RULES
    judge_tokens: int = 2_048
    wording: Mapping[str, str] = field(default_factory=lambda: {"system": "", "question": "{question}"})

    def judge_requests(self, on: frozenset[str]) -> int:
        return MOST_REQUESTS

    def read(self, record: Record) -> Item:
        return guided_item(record)

    def arranged(self, items: Sequence[Item]) -> list[Item]:
        return with_repetitions(items)

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        asked = filled(self.wording["question"], question=item.question)
        return Continue(prompt=conversation(self.wording, asked), rules=self.rules)

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        guides = [one.item.key for one in responses]
        return graded_by_guides(responses, guides, tools, judge_tokens=self.judge_tokens)


def graded_by_guides(
    responses: Sequence[TaskResponse], guides: Sequence[Guide], tools: GradingTools, *, judge_tokens: int
) -> list[Grade]:
    """A grade with the scores of `SCORES` for each response, by its guide. Raises RunFailed."""
    if tools.judge is None:
        raise AssertionError("a task that needs a judge is refused before anything is asked")
    written = [(one, guide) for one, guide in zip(responses, guides, strict=True) if one.text.strip()]
    asked = [(f"{one.item.name}/{one.repeat}", one.item.question, guide, one.text) for one, guide in written]
    passes = judged_in_passes(tools.judge, asked, seed=tools.seed, max_tokens=judge_tokens)
    graded = iter([_grade(*one, found) for one, found in zip(written, passes, strict=True)])
    return [
        next(graded) if one.text.strip() else Grade(scores=NOTHING, problem=without_answer(one)) for one in responses
    ]


def _grade(response: TaskResponse, guide: Guide, passes: Sequence[list[CriterionVerdict] | str]) -> Grade:
    by_check = guide.points_by_check(response.text)
    checks = [
        {"name": one.name, "most": one.points, "points": points}
        for one, points in zip(guide.checked, by_check, strict=True)
    ]
    read = [one for one in passes if not isinstance(one, str)]
    if len(read) < len(passes):
        reasons = "; ".join(one for one in passes if isinstance(one, str))
        details = {"checks": checks}
        return Grade(scores=NOTHING, extracted=response.text, problem="judge failed", note=reasons, details=details)
    criteria = _criteria(guide, read)
    points = [[verdict.points for verdict in verdicts] for verdicts in read]
    judged = sum(one.points for one in guide.judged)
    mean = sum(map(sum, points)) / len(points)
    scores: dict[str, float] = {
        "score": (mean + sum(by_check)) / sum(one.points for one in guide.criteria),
        "agreement": share_equal(points[0], points[1]),
        **moments(sum(points[0]) / judged, sum(points[1]) / judged),
    }
    note = "\n".join(f"{one['name']}: {one['points']} of {one['most']}. {one['reasons'][0]}" for one in criteria)
    return Grade(scores=scores, extracted=response.text, note=note, details={"criteria": criteria, "checks": checks})


def _criteria(guide: Guide, passes: Sequence[list[CriterionVerdict]]) -> list[dict[str, Any]]:
    """For reports: each judged criterion with its points and reasons in every pass."""
    return [
        {
            "name": criterion.name,
            "most": criterion.points,
            "points": [verdicts[place].points for verdicts in passes],
            "reasons": [verdicts[place].reasons for verdicts in passes],
        }
        for place, criterion in enumerate(guide.judged)
    ]


TASKS = (GuidedTask(),)
