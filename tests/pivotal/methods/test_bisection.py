"""Bisection against a recursive form of its own, its splits, its memo, and what it cannot see."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from megaphi.pivotal.methods.bisection import bisection, bounded_bisection, cumulative_surprise, split_position
from megaphi.pivotal.methods.method import answered
from megaphi.pivotal.methods.rollout import Draw
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.methods.simulation.generators import world_of
from megaphi.pivotal.methods.simulation.simulator import Simulator
from megaphi.pivotal.methods.simulation.world import Fork, path_world
from megaphi.pivotal.methods.trace import Trace

SETTINGS = Settings(rollouts=20, confirm=0)


def recursive(world, simulator, settings):
    """The paper's search, written as a recursion: (positions found, positions asked)."""
    trace, asked = world.trace, {}

    def p(position):
        if position == len(trace.tokens):
            return float(trace.success)
        if position not in asked:
            rollouts = simulator.answer([Draw(position=position, count=settings.rollouts, purpose="search")])[0]
            asked[position] = np.mean([rollout.outcome == "success" for rollout in rollouts])
        return asked[position]

    def search(left, right):
        if abs(p(right) - p(left)) < settings.gap:
            return []
        if right - left == 1:
            return [left]
        costs = [-np.log(pi) for pi in trace.probabilities[left:right]]
        half = sum(costs) / 2
        middle = next((left + n for n in range(1, right - left) if sum(costs[:n]) >= half - 1e-12), right - 1)
        if not any(costs):
            middle = (left + right) // 2
        return search(left, middle) + search(middle, right)

    return search(0, len(trace.tokens)), set(asked)


@pytest.mark.parametrize("seed", range(8))
def test_it_finds_and_asks_what_the_recursion_does(seed):
    world = world_of(["sparse", "dense", "cancelling"][seed % 3], seed)
    simulator = Simulator(world, seed=seed)
    found = answered(bisection(world.trace, SETTINGS), simulator.answer)
    expected, asked = recursive(world, Simulator(world, seed=seed), SETTINGS)
    assert list(found.selected) == expected
    assert {point.position for point in found.curve} == asked | {len(world.trace.tokens)}
    assert found.spent.rollouts == 20 * len(asked)
    assert found.spent.tokens == simulator.tokens
    assert [token.p_value for token in found.tokens] == [None] * len(expected)
    assert all(abs(token.effect.estimate) >= 0.2 for token in found.tokens)


@given(st.lists(st.sampled_from([1.0, 0.99, 0.7, 0.2]), min_size=2, max_size=30), st.data())
def test_the_split_halves_the_surprise(probabilities, data):
    trace = Trace(prompt=(), tokens=(0,) * len(probabilities), probabilities=tuple(probabilities), success=True)
    surprise = cumulative_surprise(trace)
    left = data.draw(st.integers(0, len(probabilities) - 2))
    right = data.draw(st.integers(left + 2, len(probabilities)))
    split = split_position(surprise, left, right)
    assert left < split < right
    half = (surprise[left] + surprise[right]) / 2
    if surprise[left] == surprise[right]:
        assert split == (left + right) // 2
    else:
        assert split in (left + 1, right - 1) or surprise[split - 1] < half + 1e-12 <= surprise[split] + 2e-12


def test_without_probabilities_it_halves_the_length_and_says_so():
    world = next(one for one in map(partial(world_of, "sparse"), range(99)) if 0.4 < one.success_L1[0] < 0.6)
    trace = replace(world.trace, probabilities=())
    simulator = Simulator(world, seed=3)
    first = []

    def answer(draws):
        first.append(sorted(draw.position for draw in draws))
        return simulator.answer(draws)

    found = answered(bisection(trace, replace(SETTINGS, confirm=10)), answer)
    assert first[:2] == [[0], [150]]
    assert "half their length" in found.notes[0]
    assert all(token.probability is None and token.p_value is not None for token in found.tokens)
    assert all(token.stay_after == 0.0 or token.position == 299 for token in found.tokens)


def test_opposite_changes_cancel_and_are_not_seen():
    """p 0.5, 0.9, 0.5, and the answer: 400 rollouts everywhere see nothing before the last token."""
    two = np.array([0.5])
    world = path_world(
        [0.5, 0.5, 0.5],
        [0.5, 0.9, 0.5, 1.0],
        [Fork(two * 2, np.array([0.1])), Fork(two * 2, np.ones(1) * 1.3), Fork(two * 2, np.zeros(1))],
    )
    trace = world.trace
    table = {0: 0.5, 1: 0.9, 2: 0.5}

    def answer(draws):
        simulated = Simulator(world, seed=0).answer(draws)
        return [
            [
                replace(rollout, outcome="success" if number < table[draw.position] * draw.count else "failure")
                for number, rollout in enumerate(rollouts)
            ]
            for draw, rollouts in zip(draws, simulated, strict=True)
        ]

    found = answered(bisection(trace, replace(SETTINGS, rollouts=400)), answer)
    assert found.selected == (2,)


def test_the_bound_only_leaves_out_what_cannot_be_pivotal():
    settings = replace(SETTINGS, rollouts=10)
    plain_found = bounded_found = 0
    for seed in range(12):
        world = world_of("uncertain" if seed % 2 else "plateaus", seed)
        plain = answered(bisection(world.trace, settings), Simulator(world, seed=seed).answer)
        bounded = answered(bounded_bisection(world.trace, settings), Simulator(world, seed=seed).answer)
        assert set(bounded.selected) <= set(plain.selected)
        gone = set(plain.selected) - set(bounded.selected)
        assert all(1 - world.trace.probabilities[at] < 0.2 for at in gone)
        assert bounded.spent.tokens <= plain.spent.tokens
        plain_found, bounded_found = plain_found + len(plain.selected), bounded_found + len(bounded.selected)
    assert bounded_found < plain_found


@pytest.mark.parametrize(("rollouts", "chance"), [(10, 0.503), (20, 0.268), (50, 0.057), (100, 0.0057)])
def test_a_token_without_effect_looks_pivotal_as_often_as_the_page_says(rollouts, chance):
    """docs/pivotal.md: P(|difference of two shares| >= 0.2) at p = 0.5, over every pair of outcomes."""
    law = stats.binom.pmf(np.arange(rollouts + 1), rollouts, 0.5)
    looks = np.abs(np.subtract.outer(np.arange(rollouts + 1), np.arange(rollouts + 1))) >= 0.2 * rollouts - 1e-9
    assert law @ looks @ law == pytest.approx(chance, rel=0.01)
