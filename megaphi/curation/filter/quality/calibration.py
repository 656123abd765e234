"""Scores of a classifier as probabilities that are right as often as they say, by isotonic regression.

A classifier that was trained long is sure of itself: its 0.99 may be right nine times in ten. On texts that it has not
seen, the share of right ones as a function of its score is fitted by steps that never fall (Zadrozny & Elkan 2002), and
read between the steps by straight lines. The table is plain JSON. No probability is 0 or 1: a few hundred texts cannot
show that.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megaphi.errors import InputError

MOST_KNOTS = 200


@dataclass(frozen=True, slots=True)
class Calibration:
    """A function from scores to probabilities that never falls."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, scores: Any) -> Any:
        """Probabilities, of a number or an array of them."""
        return np.interp(scores, self.scores, self.probabilities)


def fit_calibration(scores: Sequence[float], right: Sequence[bool]) -> Calibration:
    """The calibration of these scores, `right` saying which of them belong to a right answer."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(np.asarray(scores, dtype=float), kind="stable")
    ordered = np.asarray(scores, dtype=float)[order]
    values, starts, counts = np.unique(ordered, return_index=True, return_counts=True)
    means = np.add.reduceat(np.asarray(right, dtype=float)[order], starts) / counts
    fit = isotonic_regression(means, weights=counts.astype(float))
    least = 1 / (len(ordered) + 2)
    fitted = np.clip(np.asarray(fit.x), least, 1 - least)
    ends = np.asarray(fit.blocks)
    knots = sorted({int(place) for start, stop in itertools.pairwise(ends) for place in (start, stop - 1)})
    if len(knots) > MOST_KNOTS:
        knots = [knots[place] for place in np.linspace(0, len(knots) - 1, MOST_KNOTS).astype(int)]
    return Calibration(tuple(values[knots].tolist()), tuple(fitted[knots].tolist()))


def calibration_from(plain: Any, *, where: str) -> Calibration:
    """A calibration out of a JSON file. Raises InputError if it is no function that never falls."""
    try:
        scores, probabilities = (tuple(float(number) for number in plain[name]) for name in ("scores", "probabilities"))
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{where}: no calibration: expected lists of scores and probabilities") from None
    ordered = list(scores) == sorted(set(scores)) and list(probabilities) == sorted(probabilities)
    inside = all(0 <= number <= 1 for number in probabilities)
    if not scores or len(scores) != len(probabilities) or not ordered or not inside:
        raise InputError(f"{where}: damaged calibration: it must be of one length, ascending, within 0 and 1")
    return Calibration(scores, probabilities)
