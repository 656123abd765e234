"""The files of a search, written when all its questions have ended: each appears whole, and all follow from the store.

pivotal_tokens.jsonl   every token with an estimated effect, and whether it stands over all questions
pairs.jsonl            single-token preference pairs, which the DPO stage reads as they are
values.jsonl           prefixes with (n, successes): labels for a process reward model
events.jsonl           pivotal tokens in the schema of codelion/pts
questions.jsonl        every question: its success rate, or the reason it was left out
undecided.jsonl        answers that no grader could decide
report.md, page.html   for people
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megaphi.files import whole_file, write_text
from megaphi.grading.question import Choices, CodeTests, ExactAnswers, MathAnswer, Question
from megaphi.pivotal.interchange.pts_events import PivotalEvent, token_event, write_events
from megaphi.pivotal.methods.findings import TokenEffect
from megaphi.pivotal.methods.pairs import PairReport, pairs_of
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.methods.statistics.discovery import discoveries
from megaphi.pivotal.report.page import ShownAnswer, prompt_text, render_page
from megaphi.pivotal.report.summary import summary_of
from megaphi.pivotal.rollouts.prefix_reuse import QuestionRollouts
from megaphi.pivotal.rollouts.runner import Tally
from megaphi.pivotal.search import QuestionResult, SearchedAnswer
from megaphi.tokenizer.interface import Tokenizer

TASKS = {MathAnswer: "math", Choices: "qa", ExactAnswers: "qa", CodeTests: "code"}
"""Kinds of key, in the words of codelion/pts."""


@dataclass(frozen=True, slots=True)
class SearchedQuestion:
    """One question with everything that is known of it."""

    question: Question
    rollouts: QuestionRollouts
    result: QuestionResult


@dataclass(frozen=True, slots=True)
class _Answer:
    """One searched answer, and those of its effects that stand over all questions."""

    of: SearchedQuestion
    number: int
    answer: SearchedAnswer
    standing: Sequence[TokenEffect]


def write_results(
    searched: Sequence[SearchedQuestion],
    folder: Path,
    tally: Tally,
    tokenizer: Tokenizer,
    *,
    model: str,
    settings: Settings,
    level: float,
    margin: float,
) -> str:
    """Write all files; returns one line that says what was found.

    Args:
        model: name of the sampler.
        level: of the false-discovery rate.
        margin: by how much the accepted side of a pair must succeed more often.
    """
    answers = list(_standing(searched, settings, level))
    pairs = _pairs(answers, margin)
    write_lines(folder / "pivotal_tokens.jsonl", _token_records(answers, tokenizer))
    write_lines(folder / "pairs.jsonl", pairs.records)
    write_lines(folder / "values.jsonl", _value_records(searched))
    write_events(_events(answers, tokenizer, model), folder / "events.jsonl")
    write_lines(folder / "questions.jsonl", map(_question_record, searched))
    write_lines(folder / "undecided.jsonl", _undecided_records(tally))
    pivotal = sum(len(one.standing) for one in answers)
    title = f"Pivotal tokens of {model}"
    results = [one.result for one in searched]
    summary = summary_of(results, title=title, pivotal=pivotal, pairs=pairs, tally=tally)
    write_text(folder / "report.md", summary)
    shown = [ShownAnswer(one.of.question, one.answer, {effect.position for effect in one.standing}) for one in answers]
    write_text(folder / "page.html", render_page(shown, tokenizer, title=title))
    pay = f"{tally.generated_rollouts:,} rollouts, {tally.generated_tokens:,} tokens"
    found = f"{pivotal:,} pivotal tokens in {len(answers):,} answers, {len(pairs.records):,} pairs"
    return f"{len(searched):,} questions: {found}; {pay}: {folder / 'report.md'}"


def _standing(searched: Sequence[SearchedQuestion], settings: Settings, level: float) -> Iterator[_Answer]:
    answers = [(one, number, answer) for one in searched for number, answer in enumerate(one.result.answers)]
    standing = discoveries([answer.findings for _, _, answer in answers], gap=settings.gap, level=level)
    for (one, number, answer), effects in zip(answers, standing, strict=True):
        yield _Answer(one, number, answer, effects)


def _pairs(answers: Sequence[_Answer], margin: float) -> PairReport:
    """Pairs of all answers, and the reasons for which pivotal tokens have none."""
    reports = [
        pairs_of(one.standing, one.answer.trace, question=one.of.question.name, margin=margin) for one in answers
    ]
    records = tuple(record for report in reports for record in report.records)
    return PairReport(records, sum((report.left_out for report in reports), Counter()))


def _token_records(answers: Iterable[_Answer], tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    for one in answers:
        standing = {effect.position for effect in one.standing}
        for effect in one.answer.findings.tokens:
            yield {
                "question": one.of.question.name,
                "answer": one.number,
                "success": one.answer.trace.success,
                "text": tokenizer.decode([effect.token]),
                "is_pivotal": effect.position in standing,
                **asdict(effect),
            }


def _value_records(searched: Iterable[SearchedQuestion]) -> Iterator[dict[str, Any]]:
    """Sorted by prefix, so that a file does not depend on the order of events."""
    for one in searched:
        for prefix, counts in sorted(one.rollouts.values.items()):
            yield {
                "question": one.question.name,
                "tokens": [*one.rollouts.prompt, *prefix],
                "answer_tokens": len(prefix),
                "n": counts.successes + counts.failures,
                "successes": counts.successes,
                "censored": counts.censored,
            }


def _events(answers: Iterable[_Answer], tokenizer: Tokenizer, model: str) -> Iterator[PivotalEvent]:
    for one in answers:
        question, trace = one.of.question, one.answer.trace
        for effect in one.standing:
            yield token_event(
                model=model,
                query=prompt_text(question),
                context=tokenizer.decode(trace.tokens[: effect.position]),
                label=tokenizer.decode([effect.token]),
                token=effect.token,
                position=len(trace.prompt) + effect.position,
                before=effect.after.estimate - effect.effect.estimate,
                after=effect.after.estimate,
                question=question.name,
                task=TASKS[type(question.key)],
                details={"interval": [effect.effect.low, effect.effect.high], "p_value": effect.p_value},
            )


def _question_record(one: SearchedQuestion) -> dict[str, Any]:
    first = one.result.first
    return {
        "question": one.question.name,
        "first": asdict(first),
        "left_out": one.result.left_out,
        "answers": len(one.result.answers),
        "answers_left_out": one.result.answers_left_out,
    }


def _undecided_records(tally: Tally) -> Iterator[dict[str, Any]]:
    for question, listed in sorted(tally.undecided.items()):
        yield from ({"question": question, "answer": answer, "reason": reason} for answer, reason in listed)


def write_lines(path: str | os.PathLike[str], records: Iterable[dict[str, Any]]) -> None:
    with whole_file(path) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
