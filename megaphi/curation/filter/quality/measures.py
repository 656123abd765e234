"""Measures of a classifier on texts that it has not seen: precision and recall with intervals, calibration, errors.

Intervals are Wilson's, 95 %. For a classifier of classes "positive" means that its most probable class is right:
precision is then the share of right answers among those that it is sure of, recall the share of them that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A text of the test part with what the classifier said."""

    text: str
    label: str
    """The right one."""
    source: str
    place: str
    answer: str
    """The most probable label."""
    probability: float
    """Calibrated, of being positive."""
    positive: bool
    """True if it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PortionOf:
    """A share with its Wilson interval."""

    count: int
    of: int
    share: float
    low: float
    high: float


def portion(count: int, of: int) -> PortionOf:
    """`count` out of `of`, with a 95 % interval; of nothing, anything from 0 to 1."""
    if of == 0:
        return PortionOf(count=0, of=0, share=float("nan"), low=0.0, high=1.0)
    from scipy.stats import binomtest

    interval = binomtest(count, of).proportion_ci(method="wilson")
    return PortionOf(count=count, of=of, share=count / of, low=float(interval.low), high=float(interval.high))


def at_threshold(judged: Sequence[Judged], minimum: float) -> dict[str, PortionOf]:
    """Precision, recall and share kept if documents below the minimum are rejected."""
    kept = [item for item in judged if item.probability >= minimum]
    right = sum(item.positive for item in kept)
    return {
        "precision": portion(right, len(kept)),
        "recall": portion(right, sum(item.positive for item in judged)),
        "kept": portion(len(kept), len(judged)),
    }


def curve(judged: Sequence[Judged]) -> list[tuple[float, float, float]]:
    """(Threshold, precision, recall) at every different probability, the highest first."""
    ordered = sorted(judged, key=lambda item: -item.probability)
    positives = max(sum(item.positive for item in ordered), 1)
    points, right = [], 0
    for count, item in enumerate(ordered, start=1):
        right += item.positive
        if count == len(ordered) or ordered[count].probability < item.probability:
            points.append((item.probability, right / count, right / positives))
    return points


def average_precision(points: Sequence[tuple[float, float, float]]) -> float:
    """The area under the curve of precision over recall, as a sum of steps."""
    recalls = [0.0, *(recall for _, _, recall in points)]
    return sum(precision * (recall - recalls[place]) for place, (_, precision, recall) in enumerate(points))


def reliability(judged: Sequence[Judged], *, bins: int = 10) -> list[dict[str, Any]]:
    """Texts by probability in bins of equal width, each with its mean probability and the share that is positive."""
    rows = []
    for number in range(bins):
        inside = [item for item in judged if number == min(int(item.probability * bins), bins - 1)]
        if inside:
            mean = float(np.mean([item.probability for item in inside]))
            share = portion(sum(item.positive for item in inside), len(inside))
            rows.append({"from": number / bins, "mean_probability": mean, **asdict(share)})
    return rows


def calibration_errors(judged: Sequence[Judged]) -> dict[str, float]:
    """Brier score, and the expected calibration error over ten bins."""
    brier = float(np.mean([(item.probability - item.positive) ** 2 for item in judged]))
    rows = reliability(judged)
    gaps = sum(row["of"] * abs(row["mean_probability"] - row["share"]) for row in rows)
    return {"brier": brier, "expected_calibration_error": gaps / len(judged)}


def confusion(judged: Sequence[Judged], minimum: float, *, classes: bool) -> dict[str, dict[str, int]]:
    """By source and right label, how often each verdict came: `kept` and `rejected`, or the class."""
    table: dict[str, dict[str, int]] = {}
    for item in judged:
        verdict = item.answer if classes else "kept" if item.probability >= minimum else "rejected"
        row = table.setdefault(f"{item.source}: {item.label}", {})
        row[verdict] = row.get(verdict, 0) + 1
    return {name: dict(sorted(row.items())) for name, row in sorted(table.items())}


def by_class(judged: Sequence[Judged]) -> dict[str, dict[str, PortionOf]]:
    """Precision and recall of each class, as the most probable one."""
    found = {}
    for label in sorted({item.label for item in judged} | {item.answer for item in judged}):
        right = sum(item.label == item.answer == label for item in judged)
        found[label] = {
            "precision": portion(right, sum(item.answer == label for item in judged)),
            "recall": portion(right, sum(item.label == label for item in judged)),
        }
    return found


def worst_errors(judged: Sequence[Judged], minimum: float, *, most: int) -> list[Judged]:
    """The texts on the wrong side of the threshold, the farthest from it first."""
    wrong = [item for item in judged if item.positive != (item.probability >= minimum)]
    return sorted(wrong, key=lambda item: (-abs(item.probability - minimum), item.place))[:most]


def threshold_for(judged: Sequence[Judged], *, precision: float | None, keep_share: float | None) -> tuple[float, str]:
    """The least probability that reaches a precision or keeps a share, and how it was chosen.

    The precision holds for everything from the threshold up, on the texts given; if none reaches it, it is the one
    with the highest precision, and the text says so.
    """
    points = curve(judged)
    if keep_share is not None:
        ordered = sorted((item.probability for item in judged), reverse=True)
        minimum = ordered[max(0, min(len(ordered), round(keep_share * len(ordered))) - 1)]
        return minimum, f"keeps {keep_share:.0%} of the texts of the part for calibration"
    if precision is None:
        return 0.0, "none: everything is kept"
    reached = [threshold for threshold, share, _ in points if share >= precision]
    if reached:
        return min(reached), f"precision {precision:.0%} on the part for calibration"
    best = max(points, key=lambda point: (point[1], point[2]))
    return best[0], f"precision {precision:.0%} is not reached on the part for calibration: the best is {best[1]:.0%}"
