"""The verdict on one answer: right, wrong or undecided, always with its reason.

`undecided` means that the grader could not tell, so that nothing is known of the answer: two verifiers disagree, a
verifier reached its limit of time or memory, a program could not be isolated. A caller counts it apart; to take it as
`wrong` would teach a model that a right answer is a fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["right", "wrong", "undecided"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of grading one answer, and its reason in words."""

    outcome: Outcome
    reason: str

    @property
    def is_right(self) -> bool:
        return self.outcome == "right"


def right(reason: str) -> Verdict:
    return Verdict("right", reason)


def wrong(reason: str) -> Verdict:
    return Verdict("wrong", reason)


def undecided(reason: str) -> Verdict:
    return Verdict("undecided", reason)
