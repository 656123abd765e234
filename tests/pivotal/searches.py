"""Searches over the small model, as tests run them: questions, a method that asks everything, all results in a dict."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megaphi.grading.question import Question
from megaphi.pivotal.methods.findings import Findings, Spent
from megaphi.pivotal.methods.method import Method, Search
from megaphi.pivotal.methods.rollout import Draw
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.methods.trace import Trace
from megaphi.pivotal.results import SearchedQuestion
from megaphi.pivotal.rollouts.prefix_reuse import QuestionRollouts
from megaphi.pivotal.rollouts.runner import RolloutRunner, Tally
from megaphi.pivotal.rollouts.store import RolloutStore
from megaphi.pivotal.search import QuestionPlan, QuestionResult, search_question
from megaphi.sampling import Sampling
from tests.pivotal.small_world import LONGEST, SmallGrader, SmallSource, SmallTokenizer, prompt_of, question

RULES = Sampling(temperature=1.0, max_tokens=LONGEST + 1, seed=3)
PLAN = QuestionPlan(first_rollouts=8, answers=2)
SETTINGS = Settings(rollouts=6, confirm=4)


def ask_everywhere(trace: Trace, settings: Settings) -> Search:
    """Both arms at every token, then fresh ones where they differ; the notes hold every rollout."""
    positions = range(len(trace.tokens))
    plain = [Draw(position=i, count=settings.rollouts, purpose="search") for i in positions]
    forced = [
        Draw(position=i, count=settings.rollouts, excluded=trace.tokens[i], purpose="search")
        for i in positions
        if trace.probabilities[i] < 0.9
    ]
    found = yield [*plain, *forced]
    more = [Draw(position=i, count=settings.confirm, purpose="confirm") for i in (0, len(trace.tokens) - 1)]
    found += yield more
    found += yield [Draw(position=0, count=2 * settings.rollouts, purpose="search")]
    notes = tuple(str([(one.tokens, one.outcome) for one in rollouts]) for rollouts in found)
    spent = Spent(search_rollouts=sum(map(len, found)))
    return Findings(method="everywhere", selected=(), tokens=(), curve=(), spent=spent, martingale=None, notes=notes)


def searched(
    store_path: Path,
    *,
    questions: int = 5,
    source: SmallSource | None = None,
    grader: SmallGrader | None = None,
    in_flight: int = 3,
    seconds_per_batch: float = 0.0,
    question: Callable[[int], Question] = question,
    method: Method = ask_everywhere,
    settings: Settings = SETTINGS,
    plan: QuestionPlan = PLAN,
) -> tuple[list[SearchedQuestion], Tally]:
    """Search some questions with a store, in the order of their numbers."""
    source = source or SmallSource()
    store = RolloutStore(store_path, {**source.facts, "seed": RULES.seed})
    tokenizer: Any = SmallTokenizer()
    runner = RolloutRunner(
        source,
        store,
        (grader or SmallGrader()).grade,
        tokenizer,
        RULES,
        on_progress=lambda _: time.sleep(seconds_per_batch),
    )
    try:
        work = []
        for number in range(questions):
            rollouts = QuestionRollouts(f"q{number}", prompt_of(number))
            begun = search_question(rollouts, plan, method, settings, has_probabilities=True)
            work.append((question(number), rollouts, begun))
        found = [SearchedQuestion(*one) for one in runner.run(work, in_flight=in_flight)]
        return sorted(found, key=lambda one: int(one.question.name[1:])), runner.tally
    finally:
        store.close()


def search(store_path: Path, **options: Any) -> tuple[dict[str, QuestionResult], Tally]:
    """The results of `searched`, by question."""
    found, tally = searched(store_path, **options)
    return {one.question.name: one.result for one in found}, tally
