"""Rejection sampling (`megaphi pivotal best`): several responses to a prompt, the best one becomes fine-tuning data.

By grader the best is one that is right; among several, one is drawn, since the key tells no more. By judge it is the
one with the highest accuracy, then the highest mean of the three scores, then the shorter, if its accuracy is high
enough. Every prompt without such a response is counted and named: they are the ones that the model cannot do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from megaphi.errors import InputError
from megaphi.foreign.markdown_cell import in_cell
from megaphi.generation.client.request_journal import RequestJournal
from megaphi.grading.verdict import Verdict
from megaphi.judging.asking import Unanswered, ask_json
from megaphi.pivotal.methods.findings import Counts
from megaphi.pivotal.methods.statistics.intervals import wilson
from megaphi.pivotal.preference.judge import NO_JUDGEMENT
from megaphi.pivotal.preference.judging import JUDGEMENT, LEAST, MOST, pointwise
from megaphi.pivotal.preference.prompts import AskedPrompt
from megaphi.pivotal.preference.record_files import MissingItems, said, write_records, write_report
from megaphi.pivotal.preference.responses import OpenSampler, Response, sample_responses, usable
from megaphi.sampling import Sampling

GradeVerdicts = Callable[[Sequence[tuple[int, str]]], Sequence[Verdict]]
"""(index of the question, response) -> verdict of each, by the keys of the questions."""
NONE_RIGHT = "no response is right"
NONE_GOOD = "no response has the accuracy asked for"
NONE_USABLE = "no response can be used"


@dataclass(frozen=True, kw_only=True, slots=True)
class BestSettings:
    """One run."""

    models: tuple[str, ...]
    judge: str = ""
    """The sampler that judges; empty where the questions have keys."""
    samples: int = 8
    rules: Sampling = field(default_factory=lambda: Sampling(max_tokens=1024, temperature=0.8))
    judge_rules: Sampling = field(default_factory=lambda: Sampling(max_tokens=1024))
    attempts: int = 3
    least_accuracy: int = 4
    """By judge: a best response below it is none."""
    seed: int = 0

    def check(self) -> None:
        """Raises InputError that names the option."""
        self.rules.check()
        self.judge_rules.check()
        for name, value in (("--samples", self.samples), ("--attempts", self.attempts)):
            if value < 1:
                raise InputError(f"{name} {value}: must be at least 1")
        if not LEAST <= self.least_accuracy <= MOST:
            raise InputError(f"--least-accuracy {self.least_accuracy}: scores go from {LEAST} to {MOST}")
        if self.rules.temperature == 0 and self.samples > 1:
            raise InputError("--temperature 0 gives the same response --samples times: raise it")


@dataclass(slots=True)
class BestRun:
    """Results of a run."""

    prompts: Sequence[AskedPrompt]
    responses: int = 0
    right_of: list[tuple[int, int]] = field(default_factory=list)
    """For each prompt: responses that are right (by judge: accurate enough), of those that could be used."""
    best: list[tuple[AskedPrompt, Response]] = field(default_factory=list)
    left_out: MissingItems = field(default_factory=MissingItems)

    def records(self) -> list[dict[str, Any]]:
        """Conversations as `data/packed/conversations.py` reads them."""
        return [
            {"messages": prompt.answered(response.text), "question": prompt.name, "model": response.model}
            for prompt, response in self.best
        ]


def best_responses(
    prompts: Sequence[AskedPrompt],
    settings: BestSettings,
    open_sampler: OpenSampler,
    *,
    grade: GradeVerdicts | None = None,
    journal: RequestJournal | None = None,
) -> BestRun:
    """The best response to every prompt that has a good one. `grade` decides by keys; without it the judge does."""
    settings.check()
    run = BestRun(prompts)
    sampled = sample_responses(
        open_sampler, settings.models, prompts, settings.rules, samples=settings.samples, left_out=run.left_out
    )
    run.responses = sum(map(len, sampled))
    candidates = [usable(responses, run.left_out) for responses in sampled]
    if grade is not None:
        ranked, reason = _right_ones(candidates, grade, run, settings.seed), NONE_RIGHT
    else:
        ranked, reason = _good_ones(candidates, settings, open_sampler, run, journal), NONE_GOOD
    for prompt, responses, good in zip(prompts, candidates, ranked, strict=True):
        run.right_of.append((len(good), len(responses)))
        if good:
            run.best.append((prompt, good[0]))
        else:
            run.left_out.add(reason if responses else NONE_USABLE, prompt.name, f"of {len(responses)}")
    return run


def _right_ones(
    candidates: Sequence[Sequence[Response]], grade: GradeVerdicts, run: BestRun, seed: int
) -> list[list[Response]]:
    """Right responses to each prompt, in an order that is drawn."""
    items = [response for group in candidates for response in group]
    right: list[list[Response]] = [[] for _ in candidates]
    verdicts = grade([(response.prompt, response.text) for response in items])
    for response, verdict in zip(items, verdicts, strict=True):
        if verdict.outcome == "right":
            right[response.prompt].append(response)
        elif verdict.outcome == "undecided":
            run.left_out.add("the grader could not decide about a response", response.name, verdict.reason)
    for prompt, group in zip(run.prompts, right, strict=True):
        Random(f"{seed} {prompt.name}").shuffle(group)
    return right


def _good_ones(
    candidates: Sequence[Sequence[Response]],
    settings: BestSettings,
    open_sampler: OpenSampler,
    run: BestRun,
    journal: RequestJournal | None,
) -> list[list[Response]]:
    """Accurate responses to each prompt, the best first."""
    items = [response for group in candidates for response in group]
    questions = [
        pointwise(run.prompts[response.prompt], response.text, seed=settings.seed, name=response.name)
        for response in items
    ]
    with open_sampler(settings.judge, len(questions), "judgements") as judge:
        found = ask_json(
            judge, questions, settings.judge_rules, schema=JUDGEMENT, attempts=settings.attempts, memory=journal
        )
    good: list[list[tuple[tuple[float, ...], Response]]] = [[] for _ in candidates]
    for response, judgement in zip(items, found, strict=True):
        if isinstance(judgement, Unanswered):
            run.left_out.add(NO_JUDGEMENT, response.name, judgement.reason)
        elif judgement.accuracy >= settings.least_accuracy:
            rank = (-judgement.accuracy, -judgement.overall, len(response.text))
            good[response.prompt].append((rank, response))
    return [[response for _, response in sorted(group, key=lambda item: item[0])] for group in good]


def write_best(folder: Path, run: BestRun, settings: BestSettings) -> None:
    """Fill `folder`."""
    write_records(folder / "sft.jsonl", run.records())
    write_records(
        folder / "questions.jsonl",
        [
            {"question": prompt.name, "right": right, "usable": of}
            for prompt, (right, of) in zip(run.prompts, run.right_of, strict=True)
        ],
    )
    write_records(folder / "left_out.jsonl", run.left_out.records())
    right, usable = (sum(column) for column in zip(*run.right_of, strict=True))
    chosen = Counter(response.model for _, response in run.best)
    by = (
        f"by {in_cell(settings.judge)}, with an accuracy of at least {settings.least_accuracy}"
        if settings.judge
        else "by its key"
    )
    share = said(wilson(Counts(len(run.best), len(run.prompts) - len(run.best)), 0.95))
    write_report(
        folder / "report.md",
        [
            "# The best of several responses",
            "",
            f"{len(run.prompts):,} prompts, {run.responses:,} responses, {usable:,} of them usable; chosen {by}.",
            "",
            f"- Good responses: {right:,} of {usable:,} usable ones.",
            f"- Prompts with a good response: {len(run.best):,} of {len(run.prompts):,}, a share of {share}.",
            f"- Prompts without: {len(run.prompts) - len(run.best):,}, named in left_out.jsonl.",
            "",
            "| sampler | responses chosen |",
            "|---|---:|",
            *(f"| {in_cell(model)} | {chosen[model]:,} |" for model in settings.models),
            "",
            *run.left_out.table(),
        ],
    )
