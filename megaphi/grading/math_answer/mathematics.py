"""Grading of numbers and formulas: what both verifiers find is the verdict, and what they disagree about is kept.

Two plain numerals, and two texts that are the same, need no verifier. Everything else goes to both: `right` if both
find it equal, `wrong` if both find it different, or the exact one does and math-verify, which reads the key, cannot
read the answer. What remains is `undecided` and kept as a `Dispute`, which a caller can write out and judge by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from megaphi.grading.math_answer.cleaning import LONGEST, TEXT
from megaphi.grading.math_answer.exact_verifier import ValueComparison
from megaphi.grading.math_answer.extraction import Stated, stated_result
from megaphi.grading.math_answer.verifiers import BothComparisons
from megaphi.grading.verdict import Verdict, right, undecided, wrong

NUMERAL = re.compile(r"[-+]?\d{1,200}(?:\.\d{1,200})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dispute:
    """An answer about which the verifiers do not agree."""

    question: str
    """Its name."""
    key: str
    answer: str
    """The result that was compared, as the text states it."""
    exact: str
    """Finding of the exact verifier, with its reason."""
    sympy: str
    """Finding of math-verify, with its reason."""


def grade_mathematics(
    items: Sequence[tuple[str, str, str]],
    compare: Callable[[Sequence[tuple[str, str]]], list[BothComparisons]],
    *,
    last_number: bool,
) -> tuple[list[Verdict], list[Dispute]]:
    """Verdicts on (name of the question, key, answer as a text), in order, and the disputes.

    Args:
        compare: runs the verifiers on (key, result) pairs; asked for each pair once.
        last_number: whether a text that states no result is taken at its last number.
    """
    stated = [stated_result(answer, last_number=last_number) for _, _, answer in items]
    at_once = [_without_verifier(key, one) for (_, key, _), one in zip(items, stated, strict=True)]
    open_pairs = {
        (key, one.text): None
        for (_, key, _), one, verdict in zip(items, stated, at_once, strict=True)
        if verdict is None and one is not None
    }
    findings = dict(zip(open_pairs, compare(list(open_pairs)), strict=True)) if open_pairs else {}
    verdicts, disputes = [], []
    for (name, key, _), one, verdict in zip(items, stated, at_once, strict=True):
        if verdict is None and one is not None:
            found = findings[key, one.text]
            verdict = _verdict(found, one)
            if verdict.outcome == "undecided":
                disputes.append(_dispute(name, key, one.text, found))
        assert verdict is not None
        verdicts.append(verdict)
    return verdicts, disputes


def _without_verifier(key: str, stated: Stated | None) -> Verdict | None:
    """The verdict on what needs no verifier; None for what does."""
    if stated is None:
        return wrong("it states no result")
    wanted, given = key.strip(), stated.text.strip()
    if _bare(wanted) == _bare(given):
        return right(f"the same text, stated {stated.form}")
    if NUMERAL.fullmatch(wanted) and NUMERAL.fullmatch(given):
        same = Fraction(wanted) == Fraction(given)
        return (right if same else wrong)(f"{given[:40]} for {wanted[:40]}, stated {stated.form}")
    if len(given) > LONGEST:
        return undecided(f"a result of {len(given):,} characters: none over {LONGEST:,} is compared")
    return None


def _bare(text: str) -> str:
    r"""The text without signs of mathematics, a full stop, and \text{…} around the whole."""
    bare = text.strip("$ .\n")
    inside = re.fullmatch(TEXT + r"\s?\{([^{}]*)\}", bare) if len(bare) <= LONGEST else None
    return inside[1].strip() if inside else bare


def _verdict(found: BothComparisons, stated: Stated) -> Verdict:
    exact, sympy = found.exact.finding, found.sympy.finding
    if exact == sympy == "equal":
        return right(f"both verifiers find it equal, stated {stated.form}")
    if exact == "different" and sympy in ("different", "unreadable answer"):
        return wrong(f"{_said(found)}, stated {stated.form}")
    return undecided(_said(found))


def _said(found: BothComparisons) -> str:
    return f"exact verifier: {_finding(found.exact)}; math-verify: {_finding(found.sympy)}"


def _finding(one: ValueComparison) -> str:
    return f"{one.finding} ({one.reason})" if one.reason else one.finding


def _dispute(name: str, key: str, answer: str, found: BothComparisons) -> Dispute:
    return Dispute(question=name, key=key, answer=answer, exact=_finding(found.exact), sympy=_finding(found.sympy))
