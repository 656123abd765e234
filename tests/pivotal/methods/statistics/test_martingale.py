"""The martingale check: unbiased in known worlds, exceeded where noise is taken for change."""

import numpy as np
import pytest

from megaphi.pivotal.methods.backward import backward
from megaphi.pivotal.methods.method import answered
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.methods.simulation.generators import world_of
from megaphi.pivotal.methods.simulation.simulator import Simulator
from megaphi.pivotal.methods.statistics import martingale


def test_noise_is_subtracted_and_the_bound_is_unbiased():
    """Four changes from 0.5 to 1, each p estimated from 12 rollouts."""
    random, n = np.random.default_rng(0), 12
    p = np.array([0.5, 0.8, 0.4, 0.6])
    checks = []
    for share in random.binomial(n, p, (20_000, 4)) / n:
        variance = share * (1 - share) / (n - 1)
        changes, variances = np.diff(share, append=1.0), variance + np.append(variance[1:], 0.0)
        checks.append(martingale.check(changes, variances, beginning=share[0], beginning_variance=variance[0]))
    truth = np.sum(np.diff(p, append=1.0) ** 2)
    assert np.mean([one.squared_changes for one in checks]) == pytest.approx(truth, abs=0.01)
    assert np.mean([one.squared_changes + one.noise for one in checks]) > truth + 0.1
    assert np.mean([one.bound for one in checks]) == pytest.approx(0.25, abs=0.002)


def test_a_run_of_the_backward_search_stays_at_the_bound_and_noise_exceeds_it():
    settings = Settings(most_rollouts=1, confirm=0)
    found = []
    for seed in range(60):
        world = world_of("sparse", seed + 700)
        found.append(answered(backward(world.trace, settings), Simulator(world, seed=seed).answer))
    checks = [one.martingale for one in found]
    summary = martingale.combined(checks)
    assert abs(summary.squared_changes - summary.bound) < 2.5 * summary.standard_error
    assert not summary.is_exceeded
    raw = [martingale.MartingaleCheck(one.squared_changes + one.noise, 0.0, one.bound) for one in checks]
    assert martingale.combined(raw).is_exceeded
    assert martingale.combined(checks[:1]) is None
