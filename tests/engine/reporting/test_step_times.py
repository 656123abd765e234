"""Times of every rank's phases: kept within bounds, read after a crash, and enough to name who is slow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megaphi.cli import main
from megaphi.engine.reporting import step_times
from megaphi.engine.reporting.metrics import read_metrics
from megaphi.engine.reporting.step_times import StepTimes, read_step_times
from tests.engine.reporting.straggler_runs import run_with_a_slow_rank
from tests.gloo_world import run_in_new_world


def write(folder: Path, rank: int, steps: range, **seconds: float) -> None:
    with StepTimes(folder, rank=rank, place=f"tensor 0 data {rank}") as times:
        for step in steps:
            times.add(step, seconds)


@pytest.mark.parametrize(
    ("phase", "slow", "words"),
    [
        ("forward_backward", 0.30, "rank 2 on {}: 1.43 x the median of its own work, most of it in forward_backward"),
        ("data", 0.51, "rank 2 on {}: 2.12 x the median of its own work, most of it in data (25.50 x the median; 490"),
        ("gradients", 0.90, "no rank stands out"),
    ],
)
def test_the_slow_rank_and_its_phase_are_named(
    phase: str, slow: float, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = {"data": 0.02, "forward_backward": 0.20, "optimizer": 0.2, "gradients": 0.2}
    if phase == "data":
        usual["optimizer"] = 0.22
    for rank in range(5):
        seconds = {**usual, phase: slow} if rank == 2 else usual
        write(tmp_path, rank, range(1, 30), **seconds)
    assert main(["inspect", "ranks", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    ratio = words.format(read_step_times(tmp_path, last=9)[2].host)
    own = {"forward_backward": (0.02 + slow + 0.2) / 0.42, "data": (slow + 0.2 + 0.22) / 0.44}.get(phase)
    expected = ratio if own is None else ratio.replace("1.43", f"{own:.2f}").replace("2.12", f"{own:.2f}")
    assert expected in shown
    assert "tensor 0 data 4" in shown


def test_a_step_counts_as_it_was_taken_last_and_a_torn_line_not(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 11), data=9.0)
    write(tmp_path, 0, range(6, 13), data=1.0, save=0.0)
    path = tmp_path / "steps" / "rank_00000.jsonl"
    path.write_text(path.read_text() + '{"step": 13, "da')
    times = read_step_times(tmp_path, last=100)[0]
    assert (times.steps, times.seconds["data"]) == (12, 1.0)
    assert read_step_times(tmp_path, last=3)[0].steps == 3


def test_files_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_times, "LONGEST_FILE_BYTES", 2_000)
    monkeypatch.setattr(step_times, "FLUSH_SECONDS", -1.0)
    write(tmp_path, 0, range(1, 1_001), data=0.01)
    assert sum(path.stat().st_size for path in (tmp_path / "steps").iterdir()) < 5_000
    times = read_step_times(tmp_path, last=30)[0]
    assert times.steps == 30
    assert times.place == "tensor 0 data 0"


def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "steps").write_text("a file is in the way")
    write(tmp_path, 0, range(1, 4), data=0.01)
    assert main(["inspect", "ranks", str(tmp_path)]) == 2


def test_a_run_with_a_slow_rank_ends_before_its_time_limit_and_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rank 1 sleeps a little in every forward pass; the run would take hours, and has ten seconds.

    On gloo, where a rank waits for another one's gradients as on NCCL: not in its own forward and backward pass.
    """
    results: list[dict[str, Any]] = run_in_new_world(run_with_a_slow_rank, tmp_path, "0:00:10", processes=2)
    assert all(result["message"] is None for result in results)
    assert all(result["age"] < 10 for result in results)
    steps = [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    assert (tmp_path / "run/checkpoints/latest").read_text() == f"step_{steps[-1]:08d}\n"
    assert "training.time_limit is near: saving and ending" in results[0]["log"]
    main(["inspect", "ranks", str(tmp_path / "run")])
    shown = capsys.readouterr().out
    assert "slow: rank 1 on " in shown
    assert "most of it in forward_backward" in shown
    lines = (tmp_path / "run/steps/rank_00001.jsonl").read_text().splitlines()
    first = json.loads(lines[1])
    assert set(first) >= {"step", "data", "forward_backward", "gradients", "optimizer", "exchange", "metrics"}
    assert "save" in json.loads(lines[-1])
