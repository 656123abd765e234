"""Checks that ask a judge: relevance, difficulty, a rubric, and whether each claim of an answer stands in the seed.

For groundedness the judge has to copy, for every claim, the words of the seed that support it; whether they stand there
is looked up, not believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megaphi.curation.synthesize.forms import schemas
from megaphi.curation.synthesize.forms.overlap import flat
from megaphi.curation.synthesize.forms.work import Tools, Work

SHORTEST_QUOTE = 12
"""Characters: fewer support nothing, as `the` stands in every text."""


def check_relevant(works: list[Work], tools: Tools) -> None:
    for work, one in _scored("judge_relevance", works, tools):
        work.found["relevance"] = one.score
        if one.score < work.kind.settings["score"]:
            work.reject("irrelevant", f"{one.score} of 5: {one.findings}")


def check_difficulty(works: list[Work], tools: Tools) -> None:
    for work, one in _scored("judge_difficulty", works, tools):
        least, most = work.kind.settings["levels"]
        work.found["difficulty"] = one.score
        if not least <= one.score <= most:
            work.reject("difficulty", f"{one.score} of 5, not from {least} to {most}: {one.findings}")


def check_rubric(works: list[Work], tools: Tools) -> None:
    for work, one in _scored("judge_rubric", works, tools, rubric=True):
        work.found["rubric_score"] = one.score
        if one.score < work.kind.settings["score"]:
            work.reject("low_score", f"{one.score} of 5: {one.findings}")


def check_grounded(works: list[Work], tools: Tools) -> None:
    prompts = [
        tools.prompt("judge_grounded", work, document=work.document.text, answer=work.data["answer"]) for work in works
    ]
    judged: list[Any] = tools.judge_values(works, prompts, schemas.read_support, schema=schemas.SUPPORT)
    for work, claims in zip(works, judged, strict=True):
        if claims is not None:
            _look_up(work, claims, "ungrounded")


def check_quoted(works: list[Work], tools: Tools) -> None:
    """The quotations of a chain of deductions stand in the seed. Asks nobody."""
    for work in works:
        _look_up(work, [schemas.QuotedClaim(**step) for step in work.found["chain"]], "misquoted")


def _look_up(work: Work, claims: Sequence[schemas.QuotedClaim], reason: str) -> None:
    """Find every quotation; where all are found, their places are kept."""
    text = flat(work.document.text)
    missing = [one for one in claims if len(flat(one.quote)) < SHORTEST_QUOTE or flat(one.quote) not in text]
    work.found["support"] = {"claims": len(claims), "found": len(claims) - len(missing)}
    if missing:
        work.reject(reason, f"{len(missing)} of {len(claims)} claims; the first: {missing[0].claim}")
    else:
        work.found["quotes"] = [one.quote for one in claims]


def _scored(name: str, works: list[Work], tools: Tools, *, rubric: bool = False) -> list[tuple[Work, schemas.Scored]]:
    prompts = [_prompt(name, work, tools, rubric=rubric) for work in works]
    judged = tools.judge_values(works, prompts, schemas.read_scored, schema=schemas.SCORED)
    return [(work, one) for work, one in zip(works, judged, strict=True) if one is not None]


def _prompt(name: str, work: Work, tools: Tools, *, rubric: bool) -> Any:
    plain: Mapping[str, str] = {"rubric": work.kind.settings["rubric"]} if rubric else {}
    return tools.prompt(name, work, plain=plain, document=work.document.text, work=work.text)
