"""The whole way of a batch of works of one kind: draft, revisions, checks in the kind's order."""

from __future__ import annotations

from collections.abc import Callable

from megaphi.curation.synthesize.forms import judged_checks, middle, plain_checks
from megaphi.curation.synthesize.forms.drafts import DRAFTS
from megaphi.curation.synthesize.forms.executed import check_executed
from megaphi.curation.synthesize.forms.reversal import check_faithful
from megaphi.curation.synthesize.forms.revision import revise_open
from megaphi.curation.synthesize.forms.sampled_answers import check_plurality, check_solved
from megaphi.curation.synthesize.forms.work import Tools, Work, open_works

Check = Callable[[list[Work], Tools], None]
CHECKS: dict[str, Check] = {
    "length": plain_checks.check_length,
    "shape": plain_checks.check_shape,
    "copied": plain_checks.check_copied,
    "repetitive": plain_checks.check_repetitive,
    "self_contained": plain_checks.check_self_contained,
    "relevant": judged_checks.check_relevant,
    "grounded": judged_checks.check_grounded,
    "quoted": judged_checks.check_quoted,
    "difficulty": judged_checks.check_difficulty,
    "rubric": judged_checks.check_rubric,
    "solved": check_solved,
    "plurality": check_plurality,
    "executed": check_executed,
    "faithful": check_faithful,
    "hidden": middle.check_hidden,
}


def run_chain(works: list[Work], tools: Tools) -> list[Work]:
    """All works of one kind at their end, those that were rejected too. Raises RunFailed, AffectsAll."""
    if not works:
        return []
    kind = works[0].kind
    works = DRAFTS[kind.form](works, tools)
    revise_open(works, tools)
    for check in kind.checks:
        left = open_works(works)
        if not left:
            break
        CHECKS[check](left, tools)
    return works
