"""The rule of Phi-4's report (Appendix B.1): when a text is contaminated by another, and when partly.

A shared run of 13 words that is not on the allow list settles it. Else the share of 7-grams counts: those that both
have, of those of the one that has fewer. The surprising consequence: of a text of seven words, one shared 7-gram is
all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from megaphi.config import Range
from megaphi.errors import InputError

Status = Literal["contaminated", "partial", "clean", "unchecked"]
STATUSES: tuple[Status, ...] = get_args(Status)
"""From the worst on. `unchecked`: too short to have a single n-gram, so nothing can be said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContaminationRule:
    """The lengths and thresholds of the rule."""

    exact_words: Annotated[int, Range(minimum=1)] = 13
    """Words of a shared run that settles it (paper)."""
    overlap_words: Annotated[int, Range(minimum=1)] = 7
    """Words of the runs whose share is taken (paper)."""
    contaminated_share: Annotated[float, Range(above=0, maximum=1)] = 0.5
    """Share of runs from which on a text is contaminated (default; the paper gives no value)."""
    partial_share: Annotated[float, Range(minimum=0, maximum=1)] = 0.1
    """Share of runs above which it is so in part (default; the paper gives no value)."""

    def __post_init__(self) -> None:
        if self.overlap_words > self.exact_words:
            raise InputError(
                f"overlap_words={self.overlap_words}: at most exact_words={self.exact_words}, the longer run"
            )
        if self.partial_share > self.contaminated_share:
            raise InputError(
                f"partial_share={self.partial_share}: at most contaminated_share={self.contaminated_share}"
            )

    def status(self, *, has_exact: bool, share: float) -> Status:
        """Status of a text with n-grams; `share` is the largest over all texts that it is compared with."""
        if has_exact or share >= self.contaminated_share:
            return "contaminated"
        return "partial" if share > self.partial_share else "clean"
