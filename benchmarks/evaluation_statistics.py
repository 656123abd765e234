"""The statistics of evaluations by simulation: coverage of intervals, false positives and power of the paired test.

Benchmarks are drawn whose truth is known: clusters of 1 to 10 items with rates of their own, items with rates of their
own, one answer or ten to each. One draw is one evaluation, and the question is how often its 95 % interval holds the
true rate. Named rates are spread by a quarter of the rarer side, since the coverage of any interval at one exact rate
of 20 answers jumps between 92 and 99 %.

    python benchmarks/evaluation_statistics.py [--draws 2000] [--part coverage|paired|function]
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from megaphi.evaluation.statistics.clustered import ClusteredEstimate, clustered_function, clustered_mean, estimate_of
from megaphi.evaluation.statistics.paired import PairedDifference, paired_difference
from megaphi.pivotal.methods.findings import Band

RESULTS = Path(__file__).parent / "results" / "evaluation_statistics.csv"
Floats = NDArray[np.float64]
RATES = (0.02, 0.1, 0.5, 0.9, 0.98)


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """A benchmark to draw: clusters, their sizes, repeats, and how alike answers are (correlations)."""

    clusters: int
    largest: int = 1
    """Items of a cluster: evenly from 1 to this."""
    repeats: int = 1
    of_clusters: float = 0.0
    """Correlation of items of one cluster."""
    of_items: float = 0.0
    """Correlation of the answers to one item, beyond that."""

    def sizes(self, generator: np.random.Generator) -> NDArray[np.int64]:
        return generator.integers(1, self.largest + 1, self.clusters)


DESIGNS = (
    *(Design(clusters=items) for items in (20, 50, 164, 500, 2000)),
    *(Design(clusters=items, repeats=10, of_items=0.5) for items in (20, 50, 198, 1000)),
    *(Design(clusters=items, repeats=10, of_items=0.9) for items in (20, 50, 198, 1000)),
    *(Design(clusters=count, largest=10, of_clusters=0.1) for count in (4, 10, 30, 100, 360)),
    *(Design(clusters=count, largest=10, of_clusters=0.5) for count in (4, 10, 30, 100, 360)),
    *(Design(clusters=count, largest=10, of_clusters=0.2, of_items=0.5, repeats=10) for count in (10, 30, 100, 360)),
)


def spread(rates: Floats, correlation: float, generator: np.random.Generator) -> Floats:
    """Rates of parts with this mean and correlation (Beta)."""
    if correlation == 0:
        return rates
    weight = (1 - correlation) / correlation
    inner = np.clip(rates, 1e-9, 1 - 1e-9)
    drawn = generator.beta(np.maximum(inner * weight, 1e-9), np.maximum((1 - inner) * weight, 1e-9))
    return np.where(np.isnan(drawn), inner, drawn)


def draw_items(design: Design, rate: float, generator: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    """Rate and cluster of each item."""
    numbers = np.repeat(np.arange(design.clusters), design.sizes(generator))
    of_cluster = spread(np.full(design.clusters, rate), design.of_clusters, generator)
    return spread(of_cluster[numbers], design.of_items, generator), numbers


def near(rate: float, generator: np.random.Generator) -> float:
    rarer = min(rate, 1 - rate)
    moved = rarer * generator.uniform(0.75, 1.25)
    return moved if rate <= 0.5 else 1 - moved


def coverage(design: Design, rate: float, draws: int, seed: int) -> dict[str, Any]:
    """Share of draws whose interval holds the true rate, the share on which each end fails, and what two simpler
    intervals hold: estimate ± t standard errors, and ours without the factor (k + 1) / k."""
    generator = np.random.default_rng(seed)
    below = above = carried = by_t = without_factor = 0
    widths = []
    for _ in range(draws):
        truth = near(rate, generator)
        rates, numbers = draw_items(design, truth, generator)
        answers = (generator.random((design.repeats, len(rates))) < rates).astype(float)
        scores, clusters = answers.T.ravel(), np.repeat(numbers, design.repeats)
        band = clustered_mean(scores, clusters).interval()  # pyright: ignore[reportArgumentType]
        simple = plain_estimate(scores, clusters)
        without_factor += holds(simple.interval(), truth)
        half = float(stdtrit(simple.degrees, 0.975)) * simple.variance**0.5
        by_t += abs(simple.estimate - truth) <= half
        below, above = below + (truth < band.low), above + (truth > band.high)
        widths.append(band.high - band.low)
        rarer = answers.max(0) if rate <= 0.5 else 1 - answers.min(0)
        carried += len(np.unique(numbers[rarer > 0]))
    return {
        "covered": 1 - (below + above) / draws,
        "truth_below": below / draws,
        "truth_above": above / draws,
        "width": float(np.mean(widths)),
        "clusters_with_rarer": carried / draws,
        "plain_t": by_t / draws,
        "without_factor": without_factor / draws,
    }


def plain_estimate(scores: Floats, numbers: NDArray[np.int64]) -> ClusteredEstimate:
    """The mean with its CR2 variance and no more."""
    found = estimate_of(float(scores.mean()), (scores - scores.mean()) / len(scores), numbers)  # pyright: ignore
    totals = np.bincount(numbers, (scores - scores.mean()) / len(scores))
    shares = np.bincount(numbers) / len(scores)
    return replace(found, variance=float((totals**2 / (1 - shares)).sum()))


def holds(band: Band, truth: float) -> bool:
    return band.low <= truth <= band.high


def compared(
    design: Design, rate: float, effect: float, alike: float, generator: np.random.Generator
) -> PairedDifference:
    """Two models on one benchmark, each item of the same rate for both with probability `alike`.

    The effect turns wrong answers of the second model into right ones.
    """
    first, numbers = draw_items(design, rate, generator)
    other = spread(np.full(len(first), rate), max(design.of_items, design.of_clusters, 0.3), generator)
    second = np.where(generator.random(len(first)) < alike, first, other)
    scores = []
    for rates, lifted in ((first, 0.0), (second, effect / (1 - rate))):
        answers = generator.random((design.repeats, len(rates))) < rates
        scores.append((answers | (generator.random(answers.shape) < lifted)).mean(0))
    return paired_difference(scores[0], scores[1], numbers.astype(str).tolist(), answers_per_item=design.repeats)


def paired(design: Design, rate: float, alike: float, draws: int, seed: int) -> dict[str, Any]:
    """False positives, then the power where the truth is the smallest detectable difference of the mean draw."""
    generator = np.random.default_rng(seed)
    false = covered = by_mcnemar = singles = 0
    detectable = []
    for _ in range(draws):
        found = compared(design, rate, 0.0, alike, generator)
        false += found.p_value < 0.05
        covered += found.difference.low <= 0 <= found.difference.high
        detectable.append(found.smallest_detectable)
        if found.mcnemar is not None:
            singles, by_mcnemar = singles + 1, by_mcnemar + (found.mcnemar < 0.05)
    effect = float(np.mean(detectable))
    row = {"false_positives": false / draws, "covered": covered / draws, "detectable": effect}
    if singles:
        row["mcnemar_false_positives"] = by_mcnemar / singles
    if effect < 0.9 * (1 - rate):  # else there is no room for it
        seen = [compared(design, rate, effect, alike, generator) for _ in range(draws)]
        row["power"] = float(np.mean([one.p_value < 0.05 for one in seen]))
        row["effect_covered"] = float(np.mean([one.difference.low <= effect <= one.difference.high for one in seen]))
    return row


def f1(means: Floats) -> float:
    """SimpleQA's: right answers among the attempted, and among all."""
    right, attempted = means
    return 2 * right / (attempted + 1)


def function_coverage(items: int, right: float, attempted: float, draws: int, seed: int) -> dict[str, Any]:
    """Coverage of the interval of an F1."""
    generator = np.random.default_rng(seed)
    truth, held = f1(np.array([right, attempted])), 0
    for _ in range(draws):
        place = generator.random(items)
        scores = np.stack([place < right, place < attempted], 1).astype(float)
        band = clustered_function(f1, scores, np.arange(items)).interval()  # pyright: ignore[reportArgumentType]
        held += bool(band.low <= truth <= band.high)
    return {"covered": held / draws}


def rows(part: str, draws: int) -> Iterator[dict[str, Any]]:
    seed = 0
    if part in ("", "coverage"):
        for design in DESIGNS:
            for rate in RATES:
                seed += 1
                yield {"part": "coverage", **named(design, rate), **coverage(design, rate, draws, seed)}
    if part in ("", "paired"):
        for design in (
            *(Design(clusters=items, of_items=0.7) for items in (50, 164, 500, 2000)),
            *(Design(clusters=items, repeats=10, of_items=0.5) for items in (50, 198)),
            *(Design(clusters=count, largest=10, of_clusters=0.3) for count in (10, 30, 100)),
        ):
            for rate, alike in ((0.1, 0.5), (0.5, 0.0), (0.5, 0.8), (0.8, 0.5)):
                seed += 1
                found = paired(design, rate, alike, draws, seed)
                yield {"part": "paired", **named(design, rate), "alike": alike, **found}
    if part in ("", "function"):
        for items in (100, 1000):
            for right, attempted in ((0.03, 0.2), (0.4, 0.9), (0.9, 0.97)):
                seed += 1
                found = function_coverage(items, right, attempted, draws, seed)
                yield {"part": "function", "clusters": items, "rate": right, "attempted": attempted, **found}


def named(design: Design, rate: float) -> dict[str, Any]:
    return {
        "clusters": design.clusters,
        "largest": design.largest,
        "repeats": design.repeats,
        "of_clusters": design.of_clusters,
        "of_items": design.of_items,
        "rate": rate,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--part", choices=("coverage", "paired", "function"), default="")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = []
    for row in rows(arguments.part, arguments.draws):
        row["draws"] = arguments.draws
        found.append(row)
        print({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}, flush=True)
    columns = list(dict.fromkeys(name for row in found for name in row))
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in found:
            writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    main()
