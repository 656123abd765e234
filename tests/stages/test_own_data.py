"""Training data of a fork are resumed, taken over and compared between ranks as those of the recipe are."""

from __future__ import annotations

from pathlib import Path

import pytest

from megaphi.engine.run_config import RunConfig
from megaphi.engine.start.same_run import data_facts
from tests.conversion.random_models import attentive_folder
from tests.gloo_world import run_in_world
from tests.stages.own_task import Walk
from tests.stages.packed_runs import SHAPE
from tests.stages.stage_runs import base, stage_here


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A model without a tokenizer."""
    return attentive_folder(tmp_path / "model", SHAPE)


def given(run: RunConfig) -> tuple[list[int], list[str]]:
    """Train; the numbers of the samples that were asked for, and what was said."""
    (result,) = run_in_world(stage_here, run, processes=1)
    assert result["message"] is None
    assert isinstance(run.task, Walk)
    return [int(number) for number in Path(run.task.numbers_file).read_text().split()], result["log"]


def test_data_of_a_fork_go_on_where_the_run_stopped(checkpoint: Path, tmp_path: Path) -> None:
    def run(folder: str, start: Path | None, *, steps: int, **fields: bool) -> RunConfig:
        return base(tmp_path / folder, start, steps=steps, task=Walk(numbers_file=str(tmp_path / "numbers")), **fields)

    numbers, _ = given(run("run", checkpoint, steps=3))
    assert numbers[:12] == list(range(12))
    numbers, said = given(run("run", checkpoint, steps=5, accept_rate_jump=True))
    assert numbers[:8] == list(range(12, 20))
    assert "  walks go on at 12" in said
    (saved,) = (tmp_path / "run" / "checkpoints").glob("step_*5")
    numbers, said = given(run("next", saved, steps=3, continue_sources=True))
    assert numbers[:12] == list(range(20, 32))
    assert "  walks are taken over" in said


def test_data_of_a_fork_are_compared_between_ranks(checkpoint: Path, tmp_path: Path) -> None:
    run = base(tmp_path, checkpoint, steps=2, task=Walk(numbers_file=""))
    opened = run.task.open(run, None).data.training
    assert data_facts({"training": opened, "held-out": None}) == {"training data, vocabulary": str(SHAPE.vocabulary)}
