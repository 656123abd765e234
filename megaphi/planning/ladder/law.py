"""From a sweep of learning rates at several sizes to the loss of a larger model, with an interval.

    loss of a run   =  least(N) + c (ln rate - ln best(N))^2 + noise        one curvature c for all sizes
    best(N)         =  exp(p + q ln N)                                      the rate that is used at the target
    least(N)        =  E + A N^-a                                           E, A >= 0

All by least squares. Tokens grow in proportion to N, so E + A N^-a is the law of both at once: it cannot tell how much
of A belongs to parameters and how much to tokens. The interval is a parametric bootstrap: sweeps drawn from the fit,
with noise whose size is as uncertain as its degrees of freedom say, each fitted in the same way; the target runs' own
noise and what a wrong rate costs are added. Where the sizes lie further from the law than noise explains, it is wider
by that factor.

Legend: R runs, Z sizes, B draws, P powers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megaphi.errors import InputError

Floats = NDArray[np.float64]
POWERS_P = np.exp(np.linspace(math.log(0.02), math.log(1.5), 160))
"""Values of a that are tried; published ones are 0.05 (Kaplan) to 0.35 (Chinchilla)."""
LEAST_SIZES = 3
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Measured runs."""

    parameters_Z: Floats
    size_R: NDArray[np.int64]
    """Number of each run's size."""
    log_rate_R: Floats
    loss_R: Floats

    def with_losses(self, loss_R: Floats) -> Sweep:
        return Sweep(parameters_Z=self.parameters_Z, size_R=self.size_R, log_rate_R=self.log_rate_R, loss_R=loss_R)

    def without(self, size: int) -> Sweep:
        """All runs but those of one size."""
        kept_R = self.size_R != size
        return Sweep(
            parameters_Z=np.delete(self.parameters_Z, size),
            size_R=self.size_R[kept_R] - (self.size_R[kept_R] > size),
            log_rate_R=self.log_rate_R[kept_R],
            loss_R=self.loss_R[kept_R],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Optima:
    """The least loss of every size, and the rate that gives it."""

    least_Z: Floats
    log_rate_Z: Floats
    curvature: float
    """c; 0 if the sweep shows no minimum."""
    is_inside_Z: NDArray[np.bool_]
    """False where the minimum is not within the rates that were tried: the nearest tried rate is taken."""
    fitted_R: Floats
    noise: float
    """Standard deviation of runs about the fit."""
    freedom: int
    """Degrees of freedom of the noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LadderLaw:
    """Everything that was fitted."""

    optima: Optima
    rate: tuple[float, float]
    """(p, q): the best rate of N parameters is exp(p + q ln N)."""
    floor: float
    """E."""
    scale: float
    """A."""
    power: float
    """a."""
    misfit: float
    """Distance of the sizes from the law, over what noise explains; at least 1."""

    def loss(self, parameters: float) -> float:
        """Loss of a model of so many parameters at its best rate."""
        return self.floor + self.scale * parameters**-self.power

    def best_rate(self, parameters: float) -> float:
        return math.exp(self.rate[0] + self.rate[1] * math.log(parameters))


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A value with the limits between which it is expected at 95 %."""

    value: float
    low: float
    high: float

    def holds(self, measured: float) -> bool:
        return self.low <= measured <= self.high


def fit_law(sweep: Sweep) -> LadderLaw:
    """Fit rates and losses.

    Raises:
        InputError: fewer than three sizes, too few runs to know the noise, or a loss that is not a number.
    """
    sizes = len(sweep.parameters_Z)
    if sizes < LEAST_SIZES:
        raise InputError(f"{sizes} sizes: E + A N^-a needs at least {LEAST_SIZES} different ones (--sizes)")
    if not np.isfinite(sweep.loss_R).all():
        raise InputError("a run's loss is not a number: it diverged; leave out the largest of --learning-rates")
    optima = _optima(sweep)
    log_N_Z = np.log(sweep.parameters_Z)
    q, p = np.polyfit(log_N_Z, optima.log_rate_Z, 1)
    floor, scale, power = _loss_law(sweep.parameters_Z, optima.least_Z)
    return LadderLaw(
        optima=optima,
        rate=(float(p), float(q)),
        floor=floor,
        scale=scale,
        power=power,
        misfit=_misfit(sweep, optima, floor + scale * sweep.parameters_Z**-power),
    )


def predict(sweep: Sweep, parameters: float, *, runs: int = 1, draws: int = 1_000, seed: int = 0) -> Interval:
    """The mean loss of `runs` runs of a model of so many parameters, trained at the rate that the law gives it."""
    law = fit_law(sweep)
    rate, generator = math.log(law.best_rate(parameters)), np.random.default_rng(seed)
    loss_B = np.array([_drawn(sweep, law, parameters, rate, runs, generator) for _ in range(draws)])
    low, high = np.quantile(loss_B, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = law.loss(parameters)
    return Interval(value=value, low=float(min(low, value)), high=float(max(high, value)))


def predict_rate(sweep: Sweep, parameters: float, *, draws: int = 1_000, seed: int = 0) -> Interval:
    """The best learning rate of a model of so many parameters."""
    law, generator = fit_law(sweep), np.random.default_rng(seed)
    rate_B = []
    for _ in range(draws):
        noise_R = _noise(law, generator) * generator.standard_normal(len(sweep.loss_R))
        rate_B.append(fit_law(sweep.with_losses(law.optima.fitted_R + noise_R)).best_rate(parameters))
    low, high = np.quantile(rate_B, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value=law.best_rate(parameters), low=float(low), high=float(high))


def left_out(sweep: Sweep) -> list[tuple[float, float, float]]:
    """(parameters, predicted, measured least loss) of every size, predicted by the law of the others.

    Empty with three sizes, as two do not fix the law.
    """
    sizes = len(sweep.parameters_Z)
    if sizes <= LEAST_SIZES:
        return []
    least_Z = fit_law(sweep).optima.least_Z
    found = []
    for size, parameters in enumerate(sweep.parameters_Z):
        found.append((float(parameters), fit_law(sweep.without(size)).loss(parameters), float(least_Z[size])))
    return found


def _drawn(
    sweep: Sweep, law: LadderLaw, parameters: float, rate: float, runs: int, generator: np.random.Generator
) -> float:
    """One draw of the target's mean loss: a world as likely as ours, whose best rate may be another than `rate`."""
    noise = _noise(law, generator) * law.misfit
    other = fit_law(sweep.with_losses(law.optima.fitted_R + noise * generator.standard_normal(len(sweep.loss_R))))
    missed = rate - math.log(other.best_rate(parameters))
    own_noise = noise * generator.standard_normal() / math.sqrt(runs)
    return other.loss(parameters) + other.optima.curvature * missed**2 + own_noise


def _noise(law: LadderLaw, generator: np.random.Generator) -> float:
    """A standard deviation that the runs could have had."""
    freedom = law.optima.freedom
    return law.optima.noise * math.sqrt(freedom / generator.chisquare(freedom))


def _optima(sweep: Sweep) -> Optima:
    """Parabolas of one curvature through every size's losses."""
    sizes = len(sweep.parameters_Z)
    is_of_RZ = (sweep.size_R[:, None] == np.arange(sizes)).astype(float)
    counts_Z = is_of_RZ.sum(0)
    middle_Z = sweep.log_rate_R @ is_of_RZ / counts_Z
    x_R = sweep.log_rate_R - middle_Z[sweep.size_R]
    design_RK = np.concatenate([is_of_RZ, is_of_RZ * x_R[:, None], x_R[:, None] ** 2], axis=1)
    freedom = len(x_R) - design_RK.shape[1]
    if freedom < 1 or np.linalg.matrix_rank(design_RK) < design_RK.shape[1]:
        raise InputError(
            f"{len(x_R)} runs of {sizes} sizes do not show how much losses vary: give at least three --learning-rates"
        )
    found_K = np.linalg.lstsq(design_RK, sweep.loss_R, rcond=None)[0]
    height_Z, slope_Z, curvature = found_K[:sizes], found_K[sizes : 2 * sizes], max(float(found_K[-1]), 0.0)
    widest_Z = np.array([np.abs(x_R[sweep.size_R == size]).max() for size in range(sizes)])
    vertex_Z = -slope_Z / (2 * curvature) if curvature > 0 else -np.sign(slope_Z) * np.inf
    best_Z = np.clip(np.nan_to_num(vertex_Z), -widest_Z, widest_Z)
    return Optima(
        least_Z=height_Z + slope_Z * best_Z + curvature * best_Z**2,
        log_rate_Z=middle_Z + best_Z,
        curvature=curvature,
        is_inside_Z=np.abs(vertex_Z) < widest_Z,
        fitted_R=np.asarray(design_RK @ found_K, dtype=np.float64),
        noise=float(np.linalg.norm(sweep.loss_R - design_RK @ found_K) / math.sqrt(freedom)),
        freedom=freedom,
    )


def _loss_law(parameters_Z: Floats, least_Z: Floats) -> tuple[float, float, float]:
    """(E, A, a): for every power the best E and A, neither below 0; then the best power."""
    unit = float(np.exp(np.log(parameters_Z).mean()))
    x_PZ = (parameters_Z / unit) ** -POWERS_P[:, None]
    centred_PZ, mean_P = x_PZ - x_PZ.mean(1, keepdims=True), x_PZ.mean(1)
    scale_P = np.maximum(centred_PZ @ least_Z / (centred_PZ**2).sum(1), 0.0)
    floor_P = least_Z.mean() - scale_P * mean_P
    through_zero_P = np.maximum(x_PZ @ least_Z / (x_PZ**2).sum(1), 0.0)
    scale_P = np.where(floor_P < 0, through_zero_P, scale_P)
    floor_P = np.maximum(floor_P, 0.0)
    error_P = ((floor_P[:, None] + scale_P[:, None] * x_PZ - least_Z) ** 2).sum(1)
    best = int(error_P.argmin())
    power = float(POWERS_P[best])
    return float(floor_P[best]), float(scale_P[best]) * unit**power, power


def _misfit(sweep: Sweep, optima: Optima, law_Z: Floats) -> float:
    """Birge's ratio: sizes about the law over the noise of their means; 1 where no size is left to tell."""
    freedom = len(law_Z) - LEAST_SIZES
    if freedom < 1 or optima.noise == 0:
        return 1.0
    runs_Z = np.bincount(sweep.size_R, minlength=len(law_Z))
    distance_Z = (optima.least_Z - law_Z) / (optima.noise / np.sqrt(runs_Z))
    return max(1.0, math.sqrt(float((distance_Z**2).sum()) / freedom))
