"""The search on our engine finds the same pivotal tokens under every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megaphi.parallel.layout import ParallelLayout
from tests.conversion.random_models import SHAPES, random_folder
from tests.gloo_world import run_in_world
from tests.pivotal.engine_search_runs import search_on_engine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "model"
    random_folder(folder, SHAPES["3 heads per group"], scale=0.4)
    return str(folder)


@pytest.fixture(scope="module")
def alone(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = str(tmp_path_factory.mktemp("alone"))
    return run_in_world(search_on_engine, checkpoint, ParallelLayout(), folder, processes=1)[0]


def test_one_process_finds_something_to_compare(alone: dict[str, Any]) -> None:
    assert alone["rollouts"] > 300
    assert sum(map(len, alone["effects"].values())) >= 3


@pytest.mark.parametrize(
    "layout",
    [ParallelLayout(tensor=2), ParallelLayout(pipeline=2), ParallelLayout(data=2)],
    ids=["TP2", "PP2", "two replicas"],
)
def test_every_layout_finds_the_same(
    layout: ParallelLayout, checkpoint: str, alone: dict[str, Any], tmp_path: Path
) -> None:
    found, other = run_in_world(search_on_engine, checkpoint, layout, str(tmp_path), processes=2)
    assert other is None
    assert found["first"] == alone["first"]
    assert found["tokens"] == alone["tokens"]
    assert found["rollouts"] == alone["rollouts"]
    for name, effects in alone["effects"].items():
        assert [effect[:4] for effect in found["effects"][name]] == [effect[:4] for effect in effects]
        for (*_, ours), (*_, theirs) in zip(found["effects"][name], effects, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)
