"""Agreement of two passes of a judge over the same answers.

The share of criteria that got the same points says how often the judge repeats itself. Kappa says how much of that is
more than chance: a judge that gives everyone full points agrees with itself and says nothing. Squared differences are
weighted, so two passes that differ by one point are nearly of one opinion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MOMENTS = ("first", "second", "first_squared", "second_squared", "product")
"""Scores of one answer whose means give kappa: the share of points in each pass, their squares and their product."""


def share_equal(first: Sequence[int], second: Sequence[int]) -> float:
    """Share of criteria with equal points."""
    return sum(left == right for left, right in zip(first, second, strict=True)) / len(first)


def moments(first: float, second: float) -> dict[str, float]:
    """The scores named in `MOMENTS`, for an answer with these shares of points."""
    return dict(zip(MOMENTS, (first, second, first * first, second * second, first * second), strict=True))


def weighted_kappa(means: Mapping[str, float]) -> float:
    """Cohen's kappa with quadratic weights, of shares of points, from the means of the moments.

        kappa = 1 - E[(x - y)²] / E[(x - y')²],  y' independent of x

    1 is full agreement, 0 that of chance. Where neither pass tells answers apart it is undefined, and given as 0.
    """
    squares = means["first_squared"] + means["second_squared"]
    by_chance = squares - 2 * means["first"] * means["second"]
    if by_chance < 1e-12:
        return 0.0
    return 1 - (squares - 2 * means["product"]) / by_chance
