"""The backward estimator on worlds with known truth, against bisection, and its contract with the runner."""

from dataclasses import replace

import numpy as np
import pytest

from megaphi.errors import InputError
from megaphi.pivotal.methods.backward import backward
from megaphi.pivotal.methods.bisection import bisection
from megaphi.pivotal.methods.method import answered
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.methods.simulation.generators import world_of
from megaphi.pivotal.methods.simulation.scoring import score, searched
from megaphi.pivotal.methods.simulation.simulator import Simulator
from megaphi.pivotal.methods.trace import Trace

SETTINGS = Settings()


@pytest.mark.parametrize(("kind", "least_recall"), [("sparse", 0.7), ("cancelling", 0.6), ("dense", 0.3)])
def test_it_finds_more_than_bisection_and_what_it_reports_is_true(kind, least_recall):
    """Seeds that no constant was chosen on. Precision counts a true change of at least half of the gap as near."""
    worlds = [world_of(kind, seed) for seed in range(9000, 9016)]
    ours = score(worlds, searched(backward, worlds, SETTINGS, seed=1), SETTINGS)
    paper = replace(SETTINGS, rollouts=100, confirm=0)
    theirs = score(worlds, searched(bisection, worlds, paper, seed=1), paper)
    assert ours.near_precision >= 0.95
    assert ours.recall >= least_recall
    assert ours.recall > theirs.recall + 0.1
    assert ours.false_discovery_rate <= 0.05


def test_nothing_is_reported_where_nothing_matters():
    worlds = [world_of("null", seed) for seed in range(9000, 9020)]
    settings = replace(SETTINGS, most_rollouts=300)
    assert score(worlds, searched(backward, worlds, settings, seed=1), settings).traces_reporting <= 1


def test_only_fresh_rollouts_enter_the_estimates():
    """Search rollouts that lie (every ninth place fails always) select tokens, and the truth comes out."""
    errors, covered = [], []
    for seed in range(8):
        world = world_of("null", seed)
        simulator = Simulator(world, seed=seed)

        def answer(draws, simulator=simulator):
            return [
                [replace(one, outcome="failure") for one in rollouts]
                if draw.purpose == "search" and draw.position % 9 == 0
                else rollouts
                for draw, rollouts in zip(draws, simulator.answer(draws), strict=True)
            ]

        found = answered(backward(world.trace, replace(SETTINGS, most_rollouts=400)), answer)
        errors += [token.effect.estimate - world.changes[token.position] for token in found.tokens]
        covered += [token.effect.low <= world.changes[token.position] <= token.effect.high for token in found.tokens]
    assert len(errors) > 20
    assert abs(np.mean(errors)) < 0.03
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / len(covered))


def test_it_asks_as_the_contract_says_and_counts_what_it_costs():
    world, counts = world_of("sparse", 12), {}
    simulator = Simulator(world, seed=1)

    def answer(draws):
        for draw in draws:
            key = (draw.position, draw.excluded, draw.purpose)
            assert draw.count > counts.get(key, 0)
            assert draw.excluded in (None, world.trace.tokens[draw.position])
            assert draw.excluded is not None or (draw.position == 0 and draw.purpose == "search")
            assert draw.position == 0 or world.trace.probabilities[draw.position] < 1
            counts[key] = draw.count
        return simulator.answer(draws)

    settings = replace(SETTINGS, prompt_rollouts=16)
    found = answered(backward(world.trace, settings), answer)
    assert found.spent.rollouts == sum(counts.values())
    assert found.spent.tokens == simulator.tokens
    assert found.spent.search_rollouts - 16 <= settings.most_rollouts + settings.round_rollouts
    assert found.curve[0].position == 0
    assert found.curve[-1].success.estimate == world.trace.success
    assert set(found.selected) >= {token.position for token in found.tokens}
    again = answered(backward(world.trace, settings), Simulator(world, seed=1).answer)
    assert again == found


def test_what_the_budget_leaves_undecided_is_said():
    world = world_of("uncertain", 3)
    found = answered(backward(world.trace, replace(SETTINGS, most_rollouts=330)), Simulator(world, seed=1).answer)
    assert "most_rollouts=330" in found.notes[0]


def test_traces_that_leave_nothing_to_search():
    certain = Trace(prompt=(1,), tokens=(5, 6), probabilities=(1.0, 1.0), success=False)
    found = answered(backward(certain, SETTINGS), lambda draws: pytest.fail("nothing can differ"))
    assert found.tokens == found.selected == ()
    assert [(point.position, point.success.estimate) for point in found.curve] == [(0, 0.0), (2, 0.0)]
    with pytest.raises(InputError, match="bisection"):
        next(backward(replace(certain, probabilities=()), SETTINGS))
    with pytest.raises(InputError, match="2 tokens with 1 prob"):
        replace(certain, probabilities=(0.5,))
    with pytest.raises(InputError, match=r"probabilities\[1\]=0"):
        replace(certain, probabilities=(0.5, 0.0))
    with pytest.raises(InputError, match="without tokens"):
        replace(certain, tokens=(), probabilities=())


def test_settings_name_the_field_that_is_wrong():
    SETTINGS.check()
    for field, value in (("gap", 1.5), ("null_effect", 0.3), ("doubt", 0.0), ("confirm", -1), ("rollouts", 1)):
        with pytest.raises(InputError, match=f"{field}="):
            replace(SETTINGS, **{field: value}).check()
