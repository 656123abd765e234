"""Checkpoints that are set aside: nothing resumes from them, and they go when there is a later one."""

from __future__ import annotations

from pathlib import Path

import pytest

from megaphi.engine.retention import checkpoint_name, stored_steps
from megaphi.engine.saving.latest_checkpoint import candidates
from megaphi.engine.saving.suspects import forget_suspects, set_aside


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """The run's checkpoints of steps 10, 20 and 30, and the fallback's of 40."""
    for name, steps in (("usual", (10, 20, 30)), ("fallback", (40,))):
        for step in steps:
            (tmp_path / name / checkpoint_name(step)).mkdir(parents=True)
            (tmp_path / name / checkpoint_name(step) / "file").touch()
        (tmp_path / name / "latest").write_text(checkpoint_name(max(steps)) + "\n")
    return [tmp_path / "usual", tmp_path / "fallback"]


def test_what_is_set_aside_is_no_candidate_in_any_folder(folders: list[Path]) -> None:
    assert candidates(folders)[0].name == checkpoint_name(40)
    aside = [Path(path).name for path in set_aside(folders, after=20)]
    assert aside == ["suspect_step_00000030", "suspect_step_00000040"]
    assert [path.name for path in candidates(folders)] == [checkpoint_name(20), checkpoint_name(10)]
    assert (folders[0] / "latest").read_text() == "step_00000020\n"
    assert set_aside(folders, after=20) == []


def test_without_a_checkpoint_from_before_there_is_none_to_resume_from(folders: list[Path]) -> None:
    set_aside(folders, after=5)
    assert candidates(folders) == []
    assert stored_steps(folders[0]) == []


def test_a_second_one_of_the_same_step_takes_the_place_of_the_first(folders: list[Path]) -> None:
    set_aside(folders, after=20)
    (folders[0] / checkpoint_name(30)).mkdir()
    assert [Path(path).name for path in set_aside(folders, after=20)] == ["suspect_step_00000030"]
    assert not list((folders[0] / "suspect_step_00000030").iterdir())


def test_they_go_when_there_is_a_later_checkpoint(folders: list[Path]) -> None:
    set_aside(folders, after=10)
    (folders[0] / "suspect_step_mine").mkdir()
    forget_suspects(folders[0], until=25)
    kept = sorted(path.name for path in folders[0].glob("suspect*"))
    assert kept == ["suspect_step_00000030", "suspect_step_mine"]
    forget_suspects(folders[0] / "nowhere", until=25)
