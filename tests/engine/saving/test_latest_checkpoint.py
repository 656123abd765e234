"""A run resumes from the newest whole checkpoint, names what it skipped, and never restarts silently.

Every kind of file is corrupted in every way: a bit (also in the first byte), truncated, missing, another run's. Half of
these a single rank finds; all ranks must come to the same answer.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.saving.latest_checkpoint_runs import DAMAGES, FILES, find_under_all_damages
from tests.gloo_world import run_in_world


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    return run_in_world(find_under_all_damages, str(tmp_path_factory.mktemp("newest") / "run"), processes=2)


EXPECTED = {
    "latest is no name": ("checkpoints/step_00000030", "does not name a checkpoint"),
    "no latest": ("checkpoints/step_00000030", ""),
    "latest was set back": ("checkpoints/step_00000010", ""),
    "none": ("checkpoints/step_00000030", ""),
    "sizes only": ("checkpoints/step_00000030", ""),
    "latest names nothing": ("checkpoints/step_00000020", "names step 30, which is not there"),
    "nothing in it": ("checkpoints/step_00000020", "is not complete"),
    "another run's shard": ("checkpoints/step_00000020", "another save (that) wrote it"),
    "an older shard": ("checkpoints/step_00000020", "this run wrote it at step 20"),
    "a newer one in the fallback": ("fallback/step_00000040", ""),
    "an older one in the fallback": ("checkpoints/step_00000030", ""),
    **{f"missing {name}": ("checkpoints/step_00000020", f"{name} is missing") for name in FILES[:-2]},
    **{f"truncated {name}": ("checkpoints/step_00000020", f"{name} is truncated") for name in FILES[:-2]},
}


STOPS = ("all of them", "only latest is left", "no checkpoints")


@pytest.mark.parametrize("damage", [name for name in [*DAMAGES, "sizes only"] if name not in STOPS])
def test_the_newest_whole_checkpoint_is_found(found: list[dict[str, dict[str, Any]]], damage: str) -> None:
    path, reason = EXPECTED.get(damage, ("checkpoints/step_00000020", "skipping one: "))
    for rank in found:
        assert rank[damage]["found"] == path
    said = "\n".join(found[0][damage]["log"])
    assert reason in said
    assert bool(said) == bool(reason)
    named = [name for name in FILES if damage.endswith(name)]
    assert all(name in said for name in named if reason)


def test_checkpoints_of_which_none_is_whole_stop_the_run(found: list[dict[str, dict[str, Any]]]) -> None:
    main, other = (rank["all of them"] for rank in found)
    assert "is whole (3 tried; the newest: checkpoint " in main["message"]
    assert "start.resume=false" in main["message"]
    assert other["message"] is not None


def test_a_checkpoint_that_has_vanished_stops_the_run(found: list[dict[str, dict[str, Any]]]) -> None:
    case = found[0]["only latest is left"]
    assert case["found"] is None
    assert "says that there is a checkpoint, and there is none" in case["message"]


def test_no_checkpoints_are_no_fault(found: list[dict[str, dict[str, Any]]]) -> None:
    assert [rank["no checkpoints"] for rank in found] == [{"found": None, "log": [], "message": None}] * 2
