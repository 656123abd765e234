"""The search of one question: its success rate, answers to search, and the pivotal tokens of each.

A coroutine, driven by `rollouts.runner` beside those of many other questions. Questions that the model nearly always or
nearly never answers are left out, with the reason (0.2 <= p <= 0.8 in the technical report, section 4.3). The answers
that are searched are the first ones that ended, whatever their outcome: choosing them by outcome would make the rest a
biased sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from megaphi.errors import InputError
from megaphi.pivotal.methods.findings import Counts, Findings
from megaphi.pivotal.methods.method import Method
from megaphi.pivotal.methods.rollout import Draw, Rollout
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.methods.statistics.effects import counted
from megaphi.pivotal.methods.trace import Trace
from megaphi.pivotal.rollouts.prefix_reuse import QuestionRollouts
from megaphi.pivotal.rollouts.runner import Draws, Scores, Search


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionPlan:
    """Settings for every question: its first answers, and which questions are searched."""

    first_rollouts: int = 16
    """Answers that estimate the success rate of a question, and of which some are searched."""
    lowest_rate: float = 0.2
    """Questions with a lower success rate are left out as too hard."""
    highest_rate: float = 0.8
    """Questions with a higher success rate are left out as too easy."""
    most_censored: float = 0.25
    """Questions of whose first answers a larger share was cut off or undecided are left out."""
    answers: int = 1
    """Answers of a question that are searched; 0 estimates success rates only."""

    def check(self) -> None:
        """Raises InputError that names the field."""
        for name, value, holds, rule in (
            ("first_rollouts", self.first_rollouts, self.first_rollouts >= 2, "must be at least 2"),
            ("lowest_rate", self.lowest_rate, 0 <= self.lowest_rate <= 1, "must lie between 0 and 1"),
            (
                "highest_rate",
                self.highest_rate,
                self.lowest_rate <= self.highest_rate <= 1,
                "must be at least lowest_rate, and at most 1",
            ),
            ("most_censored", self.most_censored, 0 <= self.most_censored < 1, "must be at least 0 and below 1"),
            (
                "answers",
                self.answers,
                0 <= self.answers <= self.first_rollouts,
                f"must lie between 0 and first_rollouts ({self.first_rollouts})",
            ),
        ):
            if not holds:
                raise InputError(f"{name}={value}: {rule}")


@dataclass(frozen=True, slots=True)
class SearchedAnswer:
    """One answer, and what was found in it."""

    trace: Trace
    findings: Findings


@dataclass(kw_only=True, slots=True)
class QuestionResult:
    """All that the search of one question found."""

    first: Counts
    """Outcomes of its first answers."""
    left_out: str = ""
    """Reason it was not searched; empty if it was."""
    answers: list[SearchedAnswer] = field(default_factory=list)
    answers_left_out: dict[str, int] = field(default_factory=dict)
    """Reason -> answers that could not be searched."""


def search_question(
    rollouts: QuestionRollouts, plan: QuestionPlan, method: Method, settings: Settings, *, has_probabilities: bool
) -> Search:
    """Returns a QuestionResult."""
    first_draw = Draw(position=0, count=plan.first_rollouts, purpose="search")
    first: list[Rollout] = (yield Draws((), (first_draw,)))[0]
    result = QuestionResult(first=counted(first))
    result.left_out = reason_to_leave_out(result.first, plan)
    if result.left_out:
        return result
    keys = rollouts.wanted(first_draw, ())
    chosen = [(key, one) for key, one in zip(keys, first, strict=True) if one.outcome != "censored"][: plan.answers]
    for key, _ in chosen:
        rollouts.keep_out(key)  # pyright: ignore[reportArgumentType] (nothing was known before: these are keys)
    for _, answer in chosen:
        probabilities: tuple[float, ...] = (yield Scores(answer.tokens)) if has_probabilities else ()
        if not all(probabilities):  # rounding at the edge of top-p
            reason = "a token has no probability under the sampling rules"
            result.answers_left_out[reason] = result.answers_left_out.get(reason, 0) + 1
            continue
        trace = Trace(
            prompt=rollouts.prompt,
            tokens=answer.tokens,
            probabilities=probabilities,
            success=answer.outcome == "success",
        )
        result.answers.append(SearchedAnswer(trace, (yield from _searched(trace, method, settings))))
    return result


def _searched(trace: Trace, method: Method, settings: Settings) -> Any:
    """Drive a method, asking for its draws."""
    search = method(trace, settings)
    try:
        draws = next(search)
        while True:
            draws = search.send((yield Draws(trace.tokens, tuple(draws))))
    except StopIteration as end:
        return end.value


def reason_to_leave_out(first: Counts, plan: QuestionPlan) -> str:
    """The reason a question is not searched; empty if it is."""
    if first.censored > plan.most_censored * first.n:
        return "cut off or undecided too often"
    rate = first.successes / (first.successes + first.failures)
    if rate < plan.lowest_rate:
        return "too hard"
    return "too easy" if rate > plan.highest_rate else ""
