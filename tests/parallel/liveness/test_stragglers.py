"""A rank that is slow by its own work is named once; noise, other stages of a pipeline and ranks that wait are not."""

from __future__ import annotations

import random

from megaphi.parallel.activity import FEWEST_STEPS, Activity
from megaphi.parallel.cpu_emulation import install
from megaphi.parallel.liveness.stragglers import LOOKS, StragglerWatch, stragglers


def work(seconds: float, *, data: float = 0.0) -> dict[str, float]:
    return {"data": data, "forward_backward": seconds, "optimizer": 0.1 * seconds}


def test_the_slow_rank_of_many_is_named_with_its_phase() -> None:
    draw = random.Random(1)
    ranks = [work(1.0 + draw.uniform(-0.02, 0.02)) for _ in range(64)]
    ranks[17] = work(1.0, data=0.5)
    (slow,) = stragglers(ranks, [0] * 64)
    assert (slow.rank, slow.phase) == (17, "data")
    assert 1.4 < slow.seconds / slow.usual_seconds < 1.5
    assert str(slow).endswith("most of it in data (500 ms more)")


def test_ranks_that_scatter_are_not_stragglers() -> None:
    """One in four takes twice as long: that is how this job is, and no rank stands out."""
    ranks = [work(2.0 if rank % 4 == 0 else 1.0 + 0.1 * (rank % 3)) for rank in range(16)]
    ranks[4] = work(1.3)
    assert 4 not in {slow.rank for slow in stragglers(ranks, [0] * 16)}
    draw = random.Random(2)
    for _ in range(200):
        assert not stragglers([work(draw.gauss(1.0, 0.03)) for _ in range(8)], [0] * 8)


def test_milliseconds_are_noise() -> None:
    assert not stragglers([work(0.004), work(0.011)], [0, 0])


def test_only_ranks_of_one_pipeline_stage_are_compared() -> None:
    ranks = [work(1.0), work(1.02), work(1.9), work(1.91)]
    assert not stragglers(ranks, [0, 0, 1, 1])
    assert not stragglers([work(1.0), work(2.0)], [0, 1])
    assert [slow.rank for slow in stragglers([*ranks, work(3.0)], [0, 0, 1, 1, 1])] == [4]


def test_a_straggler_is_named_once_until_it_has_recovered() -> None:
    watch, named = StragglerWatch([0] * 4), []
    for step in range(1, 30):
        is_slow = step < 10 or step > 20
        ranks = [work(1.0), work(1.0), work(2.0 if is_slow else 1.0), work(1.01)]
        named += [(step, slow.rank) for slow in watch.note([step] * 4, ranks)]
        assert not watch.note([step] * 4, ranks)  # a look without a new step does not count
    assert named == [(LOOKS, 2), (20 + LOOKS, 2)]


def test_the_work_of_a_step_is_its_own_phases_whoever_asks_in_between() -> None:
    install()
    activity = Activity()
    for step in range(1, FEWEST_STEPS + 2):
        assert not activity.usual_work()
        activity.begin(step)
        activity.enter("forward_backward")
        activity.take_seconds()
        activity.enter("exchange")
        activity.take_seconds()
    activity.begin(FEWEST_STEPS + 2)
    assert set(activity.usual_work()) == {"data", "forward_backward", "optimizer"}
    assert activity.usual_work()["forward_backward"] > 0
