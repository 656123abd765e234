"""Spikes against NumPy's median and deviations, and what is no spike."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.engine.guard.spikes import badness, deviations_above

CALM = st.floats(0.1, 10.0)


@given(st.lists(CALM, min_size=1, max_size=40), CALM)
def test_deviations_are_those_of_numpy(before: list[float], value: float) -> None:
    middle = np.median(before)
    spread = max(1.4826 * np.median(np.abs(np.array(before) - middle)), 1e-3 * middle)
    assert deviations_above(value, before) == pytest.approx((value - middle) / spread, abs=1e-9)


def test_values_without_any_deviation() -> None:
    assert deviations_above(0.0, [0.0] * 9) == 0.0
    assert deviations_above(1e-9, [0.0] * 9) == math.inf
    assert deviations_above(2.0000001, [2.0] * 9) < 1e-3


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_bad_from_the_first_step_on(loss: float) -> None:
    for deviations in (0.0, 6.0):
        assert badness(loss, 1.0, (), window=8, deviations=deviations) == "loss is not finite"
        assert badness(2.0, loss, (), window=8, deviations=deviations) == "gradient norm is not finite"
        assert badness(loss, loss, (), window=8, deviations=deviations) == "loss and gradient norm are not finite"


def test_a_spike_of_either_is_bad_once_half_a_window_was_accepted() -> None:
    accepted = tuple((2.0 + 0.01 * (step % 3), 1.0 + 0.1 * (step % 3)) for step in range(4))
    for loss, norm, named in ((5.0, 1.0, "loss 5 is"), (2.0, 9.0, "gradient norm 9 is")):
        assert badness(loss, norm, accepted[:3], window=8, deviations=6.0) is None
        assert named in str(badness(loss, norm, accepted, window=8, deviations=6.0))
        assert badness(loss, norm, accepted, window=8, deviations=0.0) is None
    assert badness(0.1, 0.0, accepted, window=8, deviations=6.0) is None  # one side only


@given(st.integers(0, 2**32 - 1))
def test_noise_around_a_falling_loss_is_no_spike(seed: int) -> None:
    generator = np.random.default_rng(seed)
    losses = 2 + 6 * np.exp(-np.arange(200) / 50) + 0.05 * generator.standard_normal(200)
    norms = np.exp(0.1 * generator.standard_normal(200))
    steps = tuple(zip(losses.tolist(), norms.tolist(), strict=True))
    for step in range(64, 200, 9):
        assert badness(*steps[step], steps[max(0, step - 128) : step], window=128, deviations=8.0) is None
