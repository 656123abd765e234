"""The progress of a stage is read from its folder: finished shards, and what unfinished ones have told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megaphi.curation.pipeline import progress
from megaphi.curation.pipeline.plan import make_plan
from megaphi.curation.pipeline.run import curate
from tests.curation.pipeline.my_steps import recipe, slow_recipe


class Bar:
    """The part of a progress bar that is used."""

    disable, n = False, 0

    def __init__(self) -> None:
        self.positions: list[int] = []

    def update(self, more: int) -> None:
        self.n += more
        self.positions.append(self.n)


def test_a_finished_run_is_at_its_end(source):
    plan = make_plan(recipe())
    assert [progress.position_of(stage) for stage in plan.stages] == [0, 0]
    curate(recipe(), show_progress=False)
    assert [progress.position_of(stage) for stage in plan.stages] == [source.stat().st_size] * 2


@pytest.mark.parametrize("size", [3_000, 1 << 20])
def test_a_bar_moves_within_shards(source, monkeypatch, size):
    """One shard, or several: the bar never goes back, is between shards in between, and ends at the end."""
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.02)
    curation = replace(slow_recipe(), shard_bytes=size)
    stages = make_plan(curation).stages
    bar = Bar()
    with progress.showing(stages[0], bar):
        curate(curation, show_progress=False)
    assert bar.positions == sorted(bar.positions)
    assert bar.n == source.stat().st_size
    ends, total = {0}, 0
    for job in stages[0].jobs:
        total += job.size_bytes
        ends.add(total)
    assert len(set(bar.positions) - ends) >= 3
    assert not list(stages[0].jobs[0].output.glob(".progress"))
