"""A mixture fit from its first trial to its answer: run, fit, propose, train the proposal, compare.

The target is a weighted mean of bits per byte over the chosen validation sets (bits per byte, because sets in different
scripts or formats have different numbers of tokens in a byte). All numbers of the answer are kept with the trials that
they come from: predicted and measured, with intervals, beside what repeats say of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from megaphi.errors import InputError
from megaphi.planning.mixture.choice import best_shares, limits_of
from megaphi.planning.mixture.response import (
    Floats,
    MixingLaw,
    fit_law,
    left_out_errors,
    mean_response,
    resampled_laws,
)
from megaphi.planning.mixture.swarm import Swarm
from megaphi.planning.mixture.trial import Role, Shares, Trial, plan_trials, repeated

CONFIDENCE = 0.95
SHARE_RESAMPLES = 100
"""Resamples whose own best mixture is searched, to see how sure the proposed shares are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSettings:
    """Size of a fit, and its target."""

    runs: int = 32
    """Trials that the response is fitted to."""
    repeats: int = 4
    """Seeds of the recipe's, the uniform and the proposed mixture."""
    held_out: int = 8
    """Trials that the fit does not see."""
    seed: int = 0
    resamples: int = 300
    """Refits that the intervals are from."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetFit:
    """The response of one validation set."""

    name: str
    weight: float
    floor: float
    """Bits per byte that no mixture of the sources would reach."""
    slopes: Mapping[str, float]
    left_out_error: float
    """Root mean square error, each trial predicted by the fit to the others; in bits per byte."""
    mean_error: float
    """The same of a plain mean, which knows nothing of the mixture."""
    noise: float
    """Standard deviation of the repeats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureFit:
    """The answer of a fit. Gains are lower bits per byte: positive is better."""

    sources: tuple[str, ...]
    base: tuple[float, ...]
    proposed: tuple[float, ...]
    proposed_range: tuple[tuple[float, float], ...]
    """5th and 95th percentile of each share among the best mixtures of resampled fits."""
    targets: tuple[TargetFit, ...]
    predicted_gain: Mapping[str, Estimate]
    """Over the recipe's mixture (`base`) and the `uniform` one; from resampled fits, the proposal fixed."""
    measured_gain: Mapping[str, Estimate]
    """The same by training: pairs of trials under one seed."""
    held_out: tuple[tuple[str, float, float], ...]
    """(trial, predicted, measured) of the target, of trials that the fit did not see."""
    rank_correlation: float | None
    """Spearman's, over those."""
    noise: float
    """Standard deviation of the target over repeats of the recipe's mixture."""


def fit_mixture(
    swarm: Swarm,
    base: Mapping[str, float],
    settings: FitSettings,
    *,
    bits_per_byte: Mapping[str, float],
    weights: Mapping[str, float],
    most_shares: Mapping[str, float],
) -> MixtureFit:
    """Run all trials that have no result, fit, and measure the proposal.

    Args:
        base: the recipe's share of each source.
        bits_per_byte: of each target, a loss of one nat per token in bits per byte.
        weights: of the targets, summing to 1.
        most_shares: largest share of each source that there is text for.

    Raises:
        InputError: too few runs, or too little text.
        RunFailed: a trial failed.
    """
    trials = plan_trials(
        base, runs=settings.runs, repeats=settings.repeats, held_out=settings.held_out, seed=settings.seed
    )
    swarm.run(trials, label="trials")
    measured = _Measured(swarm, list(base), bits_per_byte, weights)
    share_NS, y_NT = measured.of(trials, "fit")
    laws = [fit_law(share_NS, y_N) for y_N in y_NT.T]
    limits = limits_of(share_NS, np.array([most_shares[name] for name in base]))
    proposed_S = best_shares(laws, measured.weight_T, limits)
    names, seed = list(base), settings.seed
    uniform_S = np.full(len(names), 1 / len(names))
    compared = [
        *repeated("proposed", names, proposed_S, repeats=settings.repeats, seed=seed),
        *repeated("uniform", names, uniform_S, repeats=settings.repeats, seed=seed),
    ]
    swarm.run(compared, label="comparison")
    refits = resampled_laws(share_NS, y_NT, resamples=settings.resamples, seed=seed)
    others = {"base": np.array(list(base.values())) / sum(base.values()), "uniform": uniform_S}
    best_BS = np.array([best_shares(refit, measured.weight_T, limits) for refit in refits[:SHARE_RESAMPLES]])
    held_out = _held_out(measured, trials, laws)
    repeats_N = measured.target(trials, "repeat")
    return MixtureFit(
        sources=tuple(names),
        base=tuple(map(float, others["base"])),
        proposed=tuple(map(float, proposed_S)),
        proposed_range=tuple((float(low), float(high)) for low, high in np.quantile(best_BS, [0.05, 0.95], axis=0).T),
        targets=tuple(_target_fits(measured, trials, laws, share_NS, y_NT)),
        predicted_gain={
            name: predicted_gain(laws, refits, measured.weight_T, other_S, proposed_S)
            for name, other_S in others.items()
        },
        measured_gain={
            "base": paired_gain(repeats_N, measured.target(compared, "proposed")),
            "uniform": paired_gain(measured.target(compared, "uniform"), measured.target(compared, "proposed")),
        },
        held_out=held_out,
        rank_correlation=_rank_correlation(held_out),
        noise=float(repeats_N.std(ddof=1)),
    )


class _Measured:
    """Bits per byte of finished trials."""

    def __init__(
        self, swarm: Swarm, names: Sequence[str], bits_per_byte: Mapping[str, float], weights: Mapping[str, float]
    ) -> None:
        self.names, self.targets = list(names), list(weights)
        self.weight_T = np.array(list(weights.values()))
        self._swarm, self._bits = swarm, bits_per_byte

    def of(self, trials: Sequence[Trial], role: Role) -> tuple[Floats, Floats]:
        """(shares [N, S], bits per byte [N, T]) of the trials of a role."""
        chosen = [trial for trial in trials if trial.role == role]
        share_NS = np.array([[trial.shares[name] for name in self.names] for trial in chosen])
        return share_NS, np.array([self._bits_of(trial.name) for trial in chosen])

    def target(self, trials: Sequence[Trial], role: Role) -> Floats:
        """The weighted mean over the targets: [N]."""
        return self.of(trials, role)[1] @ self.weight_T

    def _bits_of(self, trial: str) -> list[float]:
        losses = self._swarm.losses[trial]
        if missing := [name for name in self.targets if name not in losses]:
            raise InputError(
                f"{trial} measured nothing on {', '.join(missing)}: raise validation.samples, or choose other --target"
            )
        return [losses[name] * self._bits[name] for name in self.targets]


def predicted_gain(
    laws: Sequence[MixingLaw],
    refits: Sequence[Sequence[MixingLaw]],
    weight_T: Floats,
    other_S: Shares,
    proposed_S: Shares,
) -> Estimate:
    """Predicted saving of the proposal against another mixture; the interval is the refits' percentiles."""

    def gain(of: Sequence[MixingLaw]) -> float:
        return float(mean_response(of, weight_T, other_S) - mean_response(of, weight_T, proposed_S))

    low, high = np.quantile([gain(refit) for refit in refits], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(gain(laws), float(low), float(high))


def paired_gain(other_N: Floats, proposed_N: Floats) -> Estimate:
    """Measured saving of the proposal, by trials in pairs of one seed; Student's interval."""
    from scipy.stats import t

    saved_N = other_N - proposed_N
    half = t.ppf((1 + CONFIDENCE) / 2, len(saved_N) - 1) * saved_N.std(ddof=1) / math.sqrt(len(saved_N))
    return Estimate(float(saved_N.mean()), float(saved_N.mean() - half), float(saved_N.mean() + half))


def _target_fits(
    measured: _Measured, trials: Sequence[Trial], laws: Sequence[MixingLaw], share_NS: Floats, y_NT: Floats
) -> list[TargetFit]:
    _, repeat_NT = measured.of(trials, "repeat")
    fits = []
    for place, (name, law) in enumerate(zip(measured.targets, laws, strict=True)):
        law_N, mean_N = left_out_errors(share_NS, y_NT[:, place])
        fits.append(
            TargetFit(
                name=name,
                weight=float(measured.weight_T[place]),
                floor=law.floor,
                slopes=dict(zip(measured.names, map(float, law.slope_S), strict=True)),
                left_out_error=_root_mean_square(law_N),
                mean_error=_root_mean_square(mean_N),
                noise=float(repeat_NT[:, place].std(ddof=1)),
            )
        )
    return fits


def _root_mean_square(error_N: Floats) -> float:
    return float(np.sqrt(np.mean(error_N**2)))


def _held_out(
    measured: _Measured, trials: Sequence[Trial], laws: Sequence[MixingLaw]
) -> tuple[tuple[str, float, float], ...]:
    chosen = [trial.name for trial in trials if trial.role == "held_out"]
    if not chosen:
        return ()
    share_NS, y_NT = measured.of(trials, "held_out")
    predicted_N = mean_response(laws, measured.weight_T, share_NS)
    found = zip(chosen, predicted_N, y_NT @ measured.weight_T, strict=True)
    return tuple((name, float(predicted), float(value)) for name, predicted, value in found)


def _rank_correlation(held_out: Sequence[tuple[str, float, float]]) -> float | None:
    if len(held_out) < 3:
        return None
    from scipy.stats import spearmanr

    found = spearmanr([row[1] for row in held_out], [row[2] for row in held_out])
    return float(found.statistic)  # pyright: ignore[reportAttributeAccessIssue]
