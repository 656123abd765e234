"""Worlds and rollouts: the tree's law, the martingale, numbering, prefixes that are shared fairly."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chisquare

from megaphi.pivotal.methods.rollout import Draw
from megaphi.pivotal.methods.simulation.generators import KINDS, world_of
from megaphi.pivotal.methods.simulation.simulator import Simulator
from megaphi.pivotal.methods.simulation.world import TRACE_TOKEN, Fork, path_world


def small_world(**more):
    """Three tokens: one that matters (p 0.5 to 0.75), a certain one, and the answer."""
    return path_world(
        [0.5, 1.0, 0.75],
        [0.5, 0.75, 0.75, 1.0],
        [
            Fork(np.array([0.4, 0.6]), np.array([0.1, 0.35])),
            Fork(np.zeros(0), np.zeros(0)),
            Fork(np.ones(1), np.zeros(1)),
        ],
        **more,
    )


@pytest.mark.parametrize("kind", [*KINDS, "null"])
def test_worlds_are_martingales_with_the_bound(kind):
    worlds = [world_of(kind, seed) for seed in range(60)]
    for world in worlds[:10]:
        for position, (before, after) in enumerate(pairwise(world.success_L1.tolist())):
            pi = world.trace.probabilities[position]
            assert before == pytest.approx(pi * after + (1 - pi) * world.forks[position].otherwise)
            assert abs(after - before) <= 1 - pi + 1e-12
        assert world.success_L1[-1] == world.trace.success
    squares = np.array([np.sum(world.changes**2) - world.success_L1[0] * (1 - world.success_L1[0]) for world in worlds])
    assert abs(squares.mean()) < 3 * squares.std() / np.sqrt(len(worlds))
    has_pivots = sum(len(world.pivotal(0.2)) for world in worlds)
    assert has_pivots == 0 if kind == "null" else has_pivots > 30


def test_generators_are_functions_of_their_seed():
    one, same, other = world_of("sparse", 4), world_of("sparse", 4), world_of("sparse", 5)
    assert one.trace == same.trace
    assert one.trace.probabilities != other.trace.probabilities


def test_plain_rollouts_follow_the_trace_by_its_probabilities():
    rollouts = Simulator(small_world(), seed=1).answer([Draw(position=0, count=8000, purpose="search")])[0]
    left_first = [rollout for rollout in rollouts if rollout.tokens[0] != TRACE_TOKEN]
    whole = [rollout for rollout in rollouts if rollout.tokens == (TRACE_TOKEN,) * 3]
    counts = [
        sum(rollout.tokens[0] == TRACE_TOKEN + 1 for rollout in left_first),
        sum(rollout.tokens[0] == TRACE_TOKEN + 2 for rollout in left_first),
        len(whole),
        len(rollouts) - len(left_first) - len(whole),
    ]
    assert chisquare(counts, [8000 * share for share in (0.2, 0.3, 0.375, 0.125)]).pvalue > 0.001
    assert all(rollout.outcome == "success" for rollout in whole)
    assert np.mean([rollout.outcome == "success" for rollout in rollouts]) == pytest.approx(0.5, abs=0.025)


def test_forced_divergence_has_the_law_of_the_alternatives():
    draw = Draw(position=0, count=8000, excluded=TRACE_TOKEN, purpose="search")
    rollouts = Simulator(small_world(), seed=2).answer([draw])[0]
    first = [sum(rollout.tokens[0] == TRACE_TOKEN + 1 + which for rollout in rollouts) for which in range(2)]
    assert chisquare(first, [3200, 4800]).pvalue > 0.001
    for which, value in enumerate((0.1, 0.35)):
        outcomes = [
            rollout.outcome == "success" for rollout in rollouts if rollout.tokens[0] == TRACE_TOKEN + 1 + which
        ]
        assert np.mean(outcomes) == pytest.approx(value, abs=0.03)


def test_rollouts_are_numbered_within_prefix_excluded_token_and_purpose():
    world = world_of("sparse", 1)
    draws = [Draw(position=at, count=n, purpose=p) for at in (0, 40) for n in (7, 20) for p in ("search", "confirm")]
    simulator = Simulator(world, seed=5)
    answers = simulator.answer(draws)
    assert answers[0] == answers[2][:7]
    assert answers[2] != answers[3]
    backwards = Simulator(world, seed=5).answer([draws[3], draws[2]])
    assert backwards == [answers[3], answers[2]]
    before = simulator.tokens
    simulator.answer(draws)
    assert simulator.tokens == before


def test_shared_prefixes_are_fair_samples_and_cost_nothing():
    """Over many seeds the success of what is handed on at position 1 is p_1, and only search rollouts are handed on."""
    shared, fresh = [], []
    for seed in range(300):
        simulator = Simulator(small_world(), seed=seed, shares_prefixes=True)
        simulator.answer([Draw(position=0, count=20, purpose="search")])
        spent = simulator.tokens
        rollouts = simulator.answer([Draw(position=1, count=20, purpose="search")])[0]
        passed = [rollout for rollout in rollouts if rollout.is_shared]
        shared += [rollout.outcome == "success" for rollout in passed]
        fresh += [rollout.outcome == "success" for rollout in rollouts if not rollout.is_shared]
        assert len(rollouts) == 20
        assert simulator.tokens - spent == sum(len(rollout.tokens) for rollout in rollouts if not rollout.is_shared)
        assert not any(one.is_shared for one in simulator.answer([Draw(position=1, count=5, purpose="confirm")])[0])
    assert len(shared) > 2000
    assert np.mean(shared) == pytest.approx(0.75, abs=0.03)
    assert np.mean(fresh) == pytest.approx(0.75, abs=0.03)


def test_a_share_of_rollouts_is_censored():
    rollouts = Simulator(small_world(censored_share=0.3), seed=1).answer(
        [Draw(position=0, count=2000, excluded=TRACE_TOKEN, purpose="search")]
    )[0]
    assert np.mean([rollout.outcome == "censored" for rollout in rollouts]) == pytest.approx(0.3, abs=0.04)
