"""The searches to compare with: what they select, what they save, and that their p values are valid."""

from dataclasses import replace

import numpy as np
import pytest

from megaphi.pivotal.methods.baselines import fixed, two_arm, uncertain
from megaphi.pivotal.methods.method import answered
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.methods.simulation.generators import world_of
from megaphi.pivotal.methods.simulation.scoring import score, searched
from megaphi.pivotal.methods.simulation.simulator import Simulator

SETTINGS = Settings(rollouts=100, confirm=0)


def test_the_least_probable_fifth_is_selected_for_nothing():
    world = world_of("uncertain", 1)
    found = answered(uncertain(world.trace, SETTINGS), lambda draws: pytest.fail("asks for nothing"))
    chosen = [world.trace.probabilities[at] for at in found.selected]
    assert len(chosen) == 60
    assert max(chosen) <= min(pi for at, pi in enumerate(world.trace.probabilities) if at not in found.selected)
    assert found.tokens == ()
    confirmed = answered(uncertain(world.trace, replace(SETTINGS, confirm=10)), Simulator(world, seed=1).answer)
    assert {token.position for token in confirmed.tokens} == {
        at for at in found.selected if world.trace.probabilities[at] <= 0.8
    }
    unknown = answered(uncertain(replace(world.trace, probabilities=()), SETTINGS), lambda draws: [])
    assert unknown.selected == ()
    assert "unknown" in unknown.notes[0]


def test_stopping_early_saves_rollouts():
    world = world_of("sparse", 2)
    whole = answered(fixed(world.trace, replace(SETTINGS, stop_width=0.0)), Simulator(world, seed=1).answer)
    early = answered(fixed(world.trace, SETTINGS), Simulator(world, seed=1).answer)
    ends = {end for at, pi in enumerate(world.trace.probabilities) if pi < 1 for end in (at, at + 1)} - {300}
    assert whole.spent.rollouts == 100 * len(ends)
    assert early.spent.rollouts < 0.9 * whole.spent.rollouts
    assert early.spent.rollouts >= 10 * len(ends)


def test_two_arms_report_valid_p_values():
    worlds = [world_of("null", seed) for seed in range(3)]
    settings = replace(SETTINGS, rollouts=20, null_effect=0.05)
    found = searched(two_arm, worlds, settings, seed=1)
    p = np.array([token.p_value for one in found for token in one.tokens])
    assert len(p) > 150
    assert (p <= 0.05).mean() <= 0.07
    result = score(worlds, found, settings)
    assert result.traces_reporting == 0
    assert 0.92 <= result.coverage <= 0.98
