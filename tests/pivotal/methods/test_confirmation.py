"""Confirmation: valid p values, intervals that cover, censored rollouts, and what the bound refutes for nothing."""

from dataclasses import replace

import numpy as np
import pytest

from megaphi.pivotal.methods.confirmation import confirmed
from megaphi.pivotal.methods.expenses import Expenses
from megaphi.pivotal.methods.method import answered
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.methods.simulation.generators import world_of
from megaphi.pivotal.methods.simulation.simulator import Simulator
from megaphi.pivotal.methods.simulation.world import Fork, path_world

SETTINGS = Settings(confirm=24)


def effects(world, selected, seed, settings=SETTINGS, trace=None):
    random = np.random.default_rng(seed)
    search = confirmed(trace or world.trace, settings, selected, Expenses(), random)
    return answered(search, Simulator(world, seed=seed).answer)


def level_world(*, p=0.5, **more):
    """The first token changes nothing, the second decides."""
    return path_world(
        [0.4, 0.6, p],
        [p, p, p, 1.0],
        [Fork(np.ones(1), np.array([p])), Fork(np.ones(1), np.array([p])), Fork(np.ones(1), np.zeros(1))],
        **more,
    )


@pytest.mark.parametrize("has_probabilities", [True, False])
def test_p_values_of_a_token_without_effect_are_valid(has_probabilities):
    """600 confirmations, the direction guessed: P(p <= level) is at most the level, futility included."""
    world = level_world()
    trace = world.trace if has_probabilities else replace(world.trace, probabilities=())
    p = np.array([effects(world, {0: 0.3 if seed % 2 else -0.3}, seed, trace=trace)[0].p_value for seed in range(600)])
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() <= level + 2.5 * np.sqrt(level * (1 - level) / len(p))
    assert (p <= 0.2).mean() > 0.02


def test_intervals_cover_93_to_97_percent_of_true_changes():
    covered, estimates = [], []
    for seed in range(60):
        world = world_of(["sparse", "dense", "uncertain", "cancelling"][seed % 4], seed + 5000)
        random = np.random.default_rng(seed)
        candidates = [at for at, pi in enumerate(world.trace.probabilities) if pi <= 0.8]
        chosen = {int(at): float(world.changes[at]) for at in random.permutation(candidates)[:12]}
        chosen |= {at: float(world.changes[at]) for at in world.pivotal(0.2)}
        for token in effects(world, chosen, seed, replace(SETTINGS, confirm=64)):
            truth = world.changes[token.position]
            covered.append(token.effect.low <= truth <= token.effect.high)
            estimates.append(token.effect.estimate - truth)
            assert (
                max(abs(token.effect.low), abs(token.effect.high))
                <= 1 - world.trace.probabilities[token.position] + 1e-12
            )
    assert len(covered) > 700
    assert 0.93 <= np.mean(covered) <= 0.97
    assert np.mean(estimates) == pytest.approx(0, abs=0.01)


def test_a_true_pivot_is_confirmed_with_its_alternatives():
    world = path_world(
        [0.5, 0.5],
        [0.5, 0.9, 1.0],
        [Fork(np.array([0.5, 0.5]), np.array([0.0, 0.2])), Fork(np.ones(1), np.array([0.8]))],
    )
    token = effects(world, {0: 0.3}, 1, replace(SETTINGS, confirm=200))[0]
    assert token.p_value < 1e-6
    assert token.effect.low < 0.4 < token.effect.high
    assert token.after.estimate == pytest.approx(0.9, abs=0.05)  # 0.5 known, and half of 0.8
    assert token.known_after == token.stay_after == 0.5
    assert {one.token: one.counts.successes / one.counts.n for one in token.alternatives} == pytest.approx(
        {3: 0.0, 4: 0.2}, abs=0.1
    )
    assert sum(one.counts.n for one in token.alternatives) == token.otherwise_counts.n
    assert token.after_counts.n + token.otherwise_counts.n == 400


def test_a_token_that_looks_futile_costs_a_third():
    world, costs = level_world(), []
    for seed in range(40):
        token = effects(world, {0: 0.3}, seed, replace(SETTINGS, confirm=60))[0]
        costs.append(token.after_counts.n + token.otherwise_counts.n)
        assert costs[-1] in (40, 120)
        assert costs[-1] == 120 or token.p_value == 1.0
    assert np.mean(costs) < 80


def test_the_bound_refutes_a_claim_without_rollouts():
    world = level_world()
    trace = replace(world.trace, probabilities=(0.9, 0.6, 0.5))
    assert effects(world, {0: 0.5}, 0, trace=trace) == []


def test_censored_rollouts_confirm_nothing_and_widen():
    clear = path_world([0.5, 0.9], [0.5, 0.9, 1.0], [Fork(np.ones(1), np.full(1, 0.1)), Fork(np.ones(1), np.zeros(1))])
    token = effects(clear, {0: 0.5}, 0)[0]
    assert token.p_value < 1e-6
    half = effects(replace(clear, censored_share=0.5), {0: 0.5}, 0)[0]
    assert half.effect.low < token.effect.low
    assert half.p_value > token.p_value
    every = effects(replace(clear, censored_share=1.0), {0: 0.5}, 0)[0]
    assert every.p_value > 0.5
    assert (every.effect.low, every.effect.high) == pytest.approx((-0.05, 0.5))
    assert every.otherwise_counts.failures == every.otherwise_counts.successes == 0
