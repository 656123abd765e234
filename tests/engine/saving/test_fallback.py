"""A fallback folder is one run's: what another run left there is neither trained on, nor replaced, nor deleted."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from megaphi.engine import run_lock
from megaphi.engine.retention import Saving, checkpoint_name, stored_steps
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_lock import take
from megaphi.engine.saving.fallback import OWNER, check_fallback, clear_fallback, hold_fallback, mark_fallback
from megaphi.engine.saving.latest_checkpoint import candidates
from megaphi.engine.saving.writer import checkpoint_folders
from megaphi.engine.start.run_folder import _take_folders
from megaphi.errors import InputError
from tests.engine.layout_runs import tiny_run
from tests.engine.test_run_lock import HOLD


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    yield
    for lock in [*run_lock._held.values()]:
        lock.release()


def run_in(folder: Path | str, fallback: Path) -> RunConfig:
    return tiny_run(folder=str(folder), saving=Saving(fallback_folder=str(fallback)))


def saved(run: RunConfig, step: int, *, marked: bool = True) -> Path:
    """A checkpoint in the fallback folder, as far as this file's subject goes."""
    folder = checkpoint_folders(run)[1]
    if marked:
        mark_fallback(run, folder)
    (folder / checkpoint_name(step)).mkdir(parents=True)
    (folder / checkpoint_name(step) / "config.json").write_text(json.dumps({"folder": run.folder}))
    (folder / "latest").write_text(f"{checkpoint_name(step)}\n")
    return folder


def test_another_run_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    mine, other = (run_in(tmp_path / name, tmp_path / "fallback") for name in ("mine", "other"))
    folder = saved(mine, 10)
    assert candidates(checkpoint_folders(other)), "the other run would go on from here"
    for act in (
        lambda: _take_folders(other),
        lambda: hold_fallback(other),
        lambda: mark_fallback(other, folder),
        lambda: clear_fallback(other, folder, until=99),
    ):
        with pytest.raises(InputError, match=rf"saving.fallback_folder=.*holds checkpoints of the run {tmp_path}/mine"):
            act()
    assert stored_steps(folder) == [10]
    assert not (tmp_path / "other" / run_lock.LOCK).exists()
    assert len(_take_folders(mine)) == 2
    clear_fallback(mine, folder, until=10)
    assert not (folder / OWNER).exists()
    check_fallback(other, folder)


def test_runs_of_one_relative_name_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for person in ("ada", "ben"):
        (tmp_path / person).mkdir()
    run = run_in("runs/x", tmp_path / "fallback")
    monkeypatch.chdir(tmp_path / "ada")
    saved(run, 10)
    check_fallback(run, tmp_path / "fallback")
    monkeypatch.chdir(tmp_path / "ben")
    with pytest.raises(InputError, match=f"of the run {tmp_path}/ada/runs/x: give every run a folder of its own"):
        hold_fallback(run)


def test_checkpoints_without_a_mark_say_it_themselves(tmp_path: Path) -> None:
    """Checkpoints of an earlier version, or another run's own `checkpoints` folder, where our save would delete."""
    mine, other = (run_in(tmp_path / name, tmp_path / "fallback") for name in ("mine", "other"))
    folder = saved(mine, 10, marked=False)
    saved(mine, 20, marked=False)
    (folder / checkpoint_name(20) / "config.json").write_text("{")  # corrupted: the one before says it
    check_fallback(mine, folder)
    with pytest.raises(InputError, match=r"holds checkpoints of the run .*/mine"):
        check_fallback(other, folder)


def test_the_usual_place_is_no_fallback(tmp_path: Path) -> None:
    """Every save in the usual place clears the fallback: that would be the checkpoint that was just written."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "run" / "checkpoints")
    run = run_in(tmp_path / "run", tmp_path / "link")
    with pytest.raises(InputError, match="is the folder of this run's own checkpoints"):
        hold_fallback(run)


def test_two_runs_at_a_time_are_refused_before_either_needs_it(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", tmp_path / "fallback")
    command = [sys.executable, "-c", HOLD, str(tmp_path / "fallback")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"in use by process {job.pid} .*or choose another saving.fallback_folder"):
            _take_folders(run)
        take(tmp_path / "run").release()  # the refused job holds nothing
        job.kill()


def test_a_fallback_out_of_reach_at_the_start_stops_nothing(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", Path("/proc/no/such/folder"))
    assert hold_fallback(run) == []
    assert hold_fallback(dataclasses.replace(run, saving=Saving())) == []
