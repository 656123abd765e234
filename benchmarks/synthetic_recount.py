"""The plurality filter counted again on the answers that a model really gave, by brute force.

The answers to every question are taken from the step's journal (nothing is asked), and each is compared with every
other one by itself: no groups, no sorting, no shared comparisons. Votes, reference and verdict must be those that the
step's documents say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.requests.asking import Missed, ask_several
from megaphi.curation.requests.metered import MeteredSampler
from megaphi.curation.requests.step_journal import StepJournal
from megaphi.curation.synthesize.forms.sampled_answers import equality, result_of
from megaphi.curation.synthesize.forms.work import Work
from megaphi.curation.synthesize.steps.synthesize import Synthesize
from megaphi.curation.synthesize.table.kinds_file import find_kind, our_prompt
from megaphi.grading.grader import Grader
from megaphi.sampling import Sampler, Sampling

Answers = list[str | Missed]


def recount(step: Synthesize, folder: Path, outcomes: Sequence[Outcome], open_sampler: Callable[[str], Sampler]) -> int:
    """Count all questions of a step again; returns how many. Raises AssertionError where anything differs."""
    questions = [one for one in outcomes if "plurality" in _document(one).metadata["synthetic"]]
    if not questions:
        return 0
    works = [_work(step, _document(one)) for one in questions]
    answered = _answers(step, folder, works, open_sampler)
    with Grader(processes=1) as grader:
        for outcome, work, answers in zip(questions, works, answered, strict=True):
            _check(outcome, work, answers, grader)
    return len(questions)


def _document(outcome: Outcome) -> Document:
    return outcome.document if isinstance(outcome, Rejected) else outcome


def _work(step: Synthesize, document: Document) -> Work:
    """The work with its question and options, as it was before its answers were counted."""
    messages = document.metadata.get("messages")
    work = Work(
        document=document,
        kind=find_kind(step.kind, table=step.table),
        number=0,
        choices={},
        seed=document.metadata["synthetic"]["settings"]["seed"],
        data={"question": messages[0]["content"] if messages else document.text},
    )
    work.keeps["options"] = document.metadata.get("options", [])
    return work


def _answers(
    step: Synthesize, folder: Path, works: Sequence[Work], open_sampler: Callable[[str], Sampler]
) -> list[Answers]:
    settings, journal = works[0].kind.settings, StepJournal(folder)
    prompt = our_prompt(f"answer_{settings['answer_kind']}")
    sampler = MeteredSampler(open_sampler(step.sampler), journal, place=step.sampler, budget_tokens=None)
    rules = Sampling(max_tokens=settings["answer_tokens"], temperature=step.temperature, top_p=step.top_p)
    prompts = [
        prompt.filled(plain={}, data={"question": work.data["question"]}, seed=step.seed, item=work.document.id)
        for work in works
    ]
    found = ask_several(sampler, prompts, rules, samples=settings["answers"], seeds=[work.seed for work in works])
    journal.close()
    assert sampler.usage.prompts == 0, "answers that the step did not have"
    return [one for one in found if not isinstance(one, Missed)]


def _check(outcome: Outcome, work: Work, answers: Answers, grader: Grader) -> None:
    results = [result_of(answer, work) for answer in answers]
    same = equality(work, lambda: grader)
    votes = {}
    for one in results:
        if one is not None:
            votes[one] = sum(other is not None and _equal(one, other, same) for other in results)
    said = _document(outcome).metadata["synthetic"]["plurality"]
    assert said["answers"] == len(answers) == work.kind.settings["answers"]
    assert said["votes"] == max(votes.values(), default=0)
    if votes:
        best = min((text for text in votes if votes[text] == said["votes"]), key=lambda text: (len(text), text))
        assert said["reference"] == best
    least, most = work.kind.settings["shares"]
    share = said["votes"] / len(answers)
    verdict = "no_result" if not votes else "inconsistent" if share < least else "too_easy" if share > most else "kept"
    assert verdict == (outcome.reason if isinstance(outcome, Rejected) else "kept")


def _equal(one: str, other: str, same: Callable[[Sequence[tuple[str, str]]], list[bool]]) -> bool:
    return one == other or same([(min(one, other), max(one, other))])[0]
