"""Self-revision: a draft is criticised by a rubric and written again, until that makes it no better.

Each round asks for a critique (faults, and a score from 1 to 5) and a revision that mends the faults; the revision is
criticised in turn. It goes on while the score rises and there are rounds left; the best version is kept. A round that
gets no answer ends the revision of that work, which keeps what it has; only a first critique that fails rejects it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from megaphi.curation.synthesize.forms import schemas
from megaphi.curation.synthesize.forms.work import Tools, Work, open_works

BEST = 5


@dataclass(slots=True)
class _Revising:
    """A work, and the best version of it so far."""

    work: Work
    best: str
    critique: schemas.Critique
    scores: list[int] = field(default_factory=list)
    kept: int = 0
    """The round whose version is the best."""

    @property
    def is_finished(self) -> bool:
        return self.critique.score == BEST or not self.critique.faults


def revise(works: list[Work], tools: Tools) -> None:
    """Give each work the best version that its rounds lead to."""
    going = _started(works, tools)
    every = list(going)
    rounds = works[0].kind.settings["revise"] if works else 0
    for number in range(1, rounds + 1):
        going = [one for one in going if not one.is_finished]
        if not going:
            break
        going = _round(going, tools, number)
    for one in every:
        one.work.text = one.work.data["answer"] = one.best
        one.work.found["revision"] = {"scores": one.scores, "kept": one.kept}


def _started(works: list[Work], tools: Tools) -> list[_Revising]:
    critiques = _criticised([(work, work.text) for work in works], tools)
    pairs = zip(works, critiques, strict=True)
    return [_Revising(work, work.text, found, [found.score]) for work, found in pairs if found is not None]


def _round(going: list[_Revising], tools: Tools, number: int) -> list[_Revising]:
    """One revision of each, and its critique; returns those that it made better."""
    works = [one.work for one in going]
    prompts = [
        tools.prompt(
            "revise",
            one.work,
            plain={"rubric": one.work.kind.settings["rubric"]},
            document=one.work.document.text,
            draft=one.best,
            faults="\n".join(f"- {fault}" for fault in one.critique.faults),
        )
        for one in going
    ]
    versions = tools.write(works, prompts, tokens=works[0].kind.tokens)
    written = [(one, text) for one, text in zip(going, versions, strict=True) if text is not None]
    critiques = _criticised([(one.work, text) for one, text in written], tools)
    better = []
    for (one, text), critique in zip(written, critiques, strict=True):
        if critique is None:
            continue
        one.scores.append(critique.score)
        if critique.score > one.critique.score:
            one.best, one.critique, one.kept = text, critique, number
            better.append(one)
    for work in works:
        work.rejection = None  # what it has is good enough to have begun this round
    return better


def _criticised(texts: list[tuple[Work, str]], tools: Tools) -> list[schemas.Critique | None]:
    works = [work for work, _ in texts]
    prompts = [
        tools.prompt(
            "critique",
            work,
            plain={"rubric": work.kind.settings["rubric"]},
            document=work.document.text,
            draft=text,
        )
        for work, text in texts
    ]
    return tools.judge_values(works, prompts, schemas.read_critique, schema=schemas.CRITIQUE)


def revise_open(works: list[Work], tools: Tools) -> None:
    """Revise those works of one kind that are not rejected, if the kind revises itself."""
    left = open_works(works)
    if left and left[0].kind.settings.get("revise"):
        revise(left, tools)
