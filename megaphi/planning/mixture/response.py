"""The response of a loss to the shares of a mixture: y(w) = floor + exp(w . slope), one for each validation set.

The law is that of Ye et al. 2024 (data mixing laws, arXiv 2403.16952): more of a helpful source lowers the loss, each
time by less, towards a floor that the sources cannot change. As shares sum to 1, the slopes hold the intercept too. Its
error is measured on trials that it was not fitted to, one at a time, beside that of a plain mean; its uncertainty is
the spread of fits to resampled trials.

Legend: N trials, S sources, T targets (validation sets), B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megaphi.errors import InputError

Floats = NDArray[np.float64]
STARTING_FLOOR = 0.7
"""Share of the smallest value at which the floor's search begins."""
HIGHEST_FLOOR = 0.999


@dataclass(frozen=True, slots=True)
class MixingLaw:
    """A fitted response of one target."""

    floor: float
    slope_S: Floats

    def predict(self, share_NS: Floats) -> Floats:
        return self.floor + np.exp(share_NS @ self.slope_S)

    def gradient(self, share_S: Floats) -> Floats:
        """Derivative by the shares: [S]."""
        return np.exp(share_S @ self.slope_S) * self.slope_S


def fit_law(share_NS: Floats, y_N: Floats) -> MixingLaw:
    """Least squares over floor and slopes.

    Raises:
        InputError: the mixtures do not tell the sources apart, or a value is not positive.
    """
    if np.linalg.matrix_rank(share_NS) < share_NS.shape[1]:
        raise InputError("the mixtures do not tell the sources apart: add runs (--runs)")
    if not (np.isfinite(y_N).all() and (y_N > 0).all()):
        raise InputError("a run has a loss that is not a positive number: it diverged; lower its learning rate")
    from scipy.optimize import least_squares

    lowest = float(y_N.min())
    floor = STARTING_FLOOR * lowest
    slope_S = np.linalg.lstsq(share_NS, np.log(y_N - floor), rcond=None)[0]

    def residual(parameters: Floats) -> Floats:
        return parameters[0] + np.exp(share_NS @ parameters[1:]) - y_N

    def jacobian(parameters: Floats) -> Floats:
        above_N = np.exp(share_NS @ parameters[1:])
        return np.column_stack([np.ones_like(above_N), above_N[:, None] * share_NS])

    free = np.full(len(slope_S), np.inf)
    found: Any = least_squares(
        residual,
        [floor, *slope_S],
        jac=jacobian,  # pyright: ignore[reportArgumentType]
        bounds=([0.0, *-free], [HIGHEST_FLOOR * lowest, *free]),
        method="dogbox",
        x_scale="jac",
        max_nfev=200,
    )
    return MixingLaw(float(found.x[0]), found.x[1:])


def left_out_errors(share_NS: Floats, y_N: Floats) -> tuple[Floats, Floats]:
    """(errors of the law, errors of the mean), each trial predicted by the fit to all others; [N] each."""
    law_N, mean_N = np.empty_like(y_N), np.empty_like(y_N)
    for left_out in range(len(y_N)):
        others = np.arange(len(y_N)) != left_out
        law = fit_law(share_NS[others], y_N[others])
        law_N[left_out] = law.predict(share_NS[left_out]) - y_N[left_out]
        mean_N[left_out] = y_N[others].mean() - y_N[left_out]
    return law_N, mean_N


def resampled_laws(share_NS: Floats, y_NT: Floats, *, resamples: int, seed: int) -> list[list[MixingLaw]]:
    """Fits to trials drawn with replacement: for each resample, a law for each target."""
    draw = np.random.default_rng(seed)
    found: list[list[MixingLaw]] = []
    while len(found) < resamples:
        drawn_N = draw.integers(0, len(share_NS), len(share_NS))
        if np.linalg.matrix_rank(share_NS[drawn_N]) == share_NS.shape[1]:
            found.append([fit_law(share_NS[drawn_N], y_N) for y_N in y_NT[drawn_N].T])
    return found


def mean_response(laws: Sequence[MixingLaw], weight_T: Floats, share_NS: Floats) -> Floats:
    """Weighted mean of the targets' predictions: [N]."""
    return sum((weight * law.predict(share_NS) for law, weight in zip(laws, weight_T, strict=True)), np.zeros(()))
