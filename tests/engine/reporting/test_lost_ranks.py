"""A lost rank is one event, whoever of the heartbeat and the launcher notices it first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megaphi.engine.reporting.events import Events, read_events
from megaphi.engine.reporting.lost_ranks import note_lost_ranks


def lost(folder: Path, *ranks: int, ended: bool = True, **fields: Any) -> list[list[int]]:
    note_lost_ranks(folder, "it is gone", ranks=ranks, hosts=["node1"], ended=ended, **fields)
    return [event["ranks"] for event in read_events(folder) if event["kind"] == "lost_rank"]


def test_the_second_to_notice_adds_nothing(tmp_path: Path) -> None:
    assert lost(tmp_path, 3, ended=False, step=7) == [[3]]  # it is named, and may still come back
    assert lost(tmp_path, 3, step=7) == [[3], [3]]
    assert lost(tmp_path, 3) == lost(tmp_path) == [[3], [3]]
    assert lost(tmp_path, 1) == [[3], [3], [1]]
    Events(tmp_path).add("resumed", step=5, text="again")
    assert lost(tmp_path, 3, step=8)[3:] == [[3]]


def test_the_step_is_the_last_that_was_recorded(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.9}\n')
    lost(tmp_path, 0)
    assert read_events(tmp_path)[0]["step"] == 2
    assert not lost(tmp_path / "a run that never began", 0)
    assert not (tmp_path / "a run that never began").exists()
