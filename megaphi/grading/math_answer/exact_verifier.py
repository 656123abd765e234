"""The second verifier: reads key and answer into structures of exact quantities, without SymPy, and compares those.

It shares no method with the first (`sympy_verifier.py`), and of code only the names of Unicode's signs, so that the two
seldom misread the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megaphi.grading.math_answer.equality import equality
from megaphi.grading.math_answer.quantity import Unreadable
from megaphi.grading.math_answer.structure import structure_of

Finding = Literal["equal", "different", "unreadable key", "unreadable answer", "not known"]


@dataclass(frozen=True, slots=True)
class ValueComparison:
    """The finding of one verifier on a key and an answer; the reason is empty where the finding says all."""

    finding: Finding
    reason: str = ""


def compare_exactly(key: str, answer: str) -> ValueComparison:
    """Compare by value. Raises nothing: what cannot be read is a finding, and so is a mistake of this verifier."""
    try:
        return _compare(key, answer)
    except Exception as error:
        return ValueComparison("not known", f"{type(error).__name__} in the exact verifier")


def _compare(key: str, answer: str) -> ValueComparison:
    try:
        wanted = structure_of(key)
    except Unreadable as error:
        return ValueComparison("unreadable key", str(error))
    try:
        given = structure_of(answer)
    except Unreadable as error:
        return ValueComparison("unreadable answer", str(error))
    try:
        same = equality(wanted, given)
    except Unreadable as error:
        return ValueComparison("not known", str(error))
    if same is None:
        return ValueComparison("not known", "equal only by a convention")
    return ValueComparison("equal" if same else "different")
