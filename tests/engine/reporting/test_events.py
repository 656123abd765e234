"""events.jsonl: whole lines whatever cut the last one off, several writers, a disk that is full for a while."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest

from megaphi.engine.reporting import events
from megaphi.engine.reporting.events import Events, read_events


def test_events_are_read_as_they_were_added(tmp_path: Path) -> None:
    Events(tmp_path).add("started", step=0, text="first")
    Events(tmp_path).add("saved", step=10, text="a start later\n", checkpoint="run/checkpoints/step_00000010")
    first, second = read_events(tmp_path)
    assert (first["step"], first["kind"], first["text"]) == (0, "started", "first")
    assert second["checkpoint"] == "run/checkpoints/step_00000010"
    assert first["time"].endswith("Z")
    assert first["time"] <= second["time"]
    assert read_events(tmp_path / "elsewhere") == []


def test_ranks_without_a_folder_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Events(None).add("started", step=0, text="not here")
    assert list(tmp_path.iterdir()) == []


def test_a_line_cut_off_at_any_byte_costs_itself_alone(tmp_path: Path) -> None:
    Events(tmp_path).add("saved", step=1, text="whole")
    whole = (tmp_path / events.FILE).read_bytes()
    for kept in range(len(whole)):
        (tmp_path / events.FILE).write_bytes(whole + whole[:kept])
        assert [event["step"] for event in read_events(tmp_path)] == ([1] if kept < len(whole) - 1 else [1, 1])
        Events(tmp_path).add("saved", step=2, text="after the crash")
        found = [event["step"] for event in read_events(tmp_path)]
        assert (found[0], found[-1]) == (1, 2)


def test_what_is_not_an_event_is_left_out(tmp_path: Path) -> None:
    Events(tmp_path).add("saved", step=1, text="ours")
    strange = ['{"step": 1}', "[]", '{"time": "", "step": "1", "kind": "saved", "text": ""}', "\udcff"]
    with open(tmp_path / events.FILE, "a", errors="surrogateescape") as file:
        file.write("\n".join([*strange, json.dumps({"time": "", "step": 1, "kind": "unheard of", "text": ""})]))
    assert [event["text"] for event in read_events(tmp_path)] == ["ours"]


def test_events_wait_for_space_on_the_disk(tmp_path: Path) -> None:
    log = Events(tmp_path)
    with mock.patch.object(events.os, "write", side_effect=OSError(28, "No space left on device")):
        log.add("save_failed", step=3, text="no space")
    with mock.patch.object(events.os, "write", side_effect=lambda handle, text: len(text) // 2):
        log.add("save_failed", step=4, text="still none")
    assert read_events(tmp_path) == []
    log.add("saved", step=5, text="space again")
    assert [event["step"] for event in read_events(tmp_path)] == [3, 4, 5]


def test_a_failure_is_told_and_goes_on(tmp_path: Path) -> None:
    log = Events(tmp_path)
    with pytest.raises(RuntimeError, match="worn out"), log.telling_failures(lambda: 7):
        raise RuntimeError("worn out")
    (event,) = read_events(tmp_path)
    assert (event["kind"], event["step"], event["text"], event["failed"]) == ("stopped", 7, "worn out", True)
