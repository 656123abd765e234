"""Windows of a profiler: from the configuration, on request, cut by the run's end; and a run that does not notice."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from megaphi.cli import main
from megaphi.config import override
from megaphi.engine import run_lock
from megaphi.engine.reporting import profiler as module
from megaphi.engine.reporting.events import read_events
from megaphi.engine.reporting.profile_request import is_waiting, take_request, write_request
from megaphi.engine.run_config import RunConfig, check
from megaphi.engine.run_sections import ProfilerWindow, profiled_steps
from megaphi.errors import InputError
from megaphi.parallel.layout import ParallelLayout
from tests.gloo_world import run_in_world
from tests.stages.killed_runs import killed_run
from tests.stages.stage_runs import stage_here

NO_WINDOW = ProfilerWindow()


def a_run(folder: Path, *, steps: int, profile: ProfilerWindow = NO_WINDOW) -> RunConfig:
    run = killed_run(folder, layout=ParallelLayout(data=2), asynchronous=False, bf16=False)
    return replace(run, training=replace(run.training, steps=steps), profile=profile)


def runs_here(runs: list[RunConfig]) -> list[dict[str, Any]]:
    module.SECONDS_BETWEEN_LOOKS = 0.0
    return [stage_here(run) for run in runs]


def profiles(folder: Path) -> dict[str, list[str]]:
    """Names of the files of each window."""
    windows = sorted((folder / "profiles").glob("steps_*"))
    return {window.name: sorted(path.name for path in window.iterdir()) for window in windows}


def test_windows_are_profiled_and_the_run_does_not_notice(tmp_path: Path) -> None:
    window = a_run(tmp_path / "window", steps=6, profile=ProfilerWindow(steps="2-3", ranks=(0, 1)))
    asked = a_run(tmp_path / "asked", steps=6)
    cut = a_run(tmp_path / "cut", steps=6, profile=ProfilerWindow(steps="6-9", ranks=(1,)))
    write_request(tmp_path / "asked" / "run", steps=2)
    found = run_in_world(partial(runs_here, [window, asked, cut]), processes=2)[0]
    assert [one["message"] for one in found] == [None] * 3
    losses = [[record["loss"] for record in one["records"]] for one in found]
    assert losses[0] == losses[1] == losses[2]
    both = [f"rank_0000{rank}.{ending}" for rank in (0, 1) for ending in ("operators.txt", "trace.json.gz")]
    assert profiles(tmp_path / "window" / "run") == {"steps_2-3": both}
    assert profiles(tmp_path / "asked" / "run") == {"steps_2-3": both[:2]}
    assert profiles(tmp_path / "cut" / "run") == {"steps_6-9": both[2:]}
    assert not is_waiting(tmp_path / "asked" / "run")
    trace = tmp_path / "window" / "run" / "profiles" / "steps_2-3" / "rank_00001.trace.json.gz"
    with gzip.open(trace) as file:
        names = [event.get("name") for event in json.load(file)["traceEvents"]]
    assert [names.count(f"step {step}") for step in (1, 2, 3, 4)] == [0, 1, 1, 0]
    assert names.count("aten::mm") + names.count("aten::addmm") + names.count("aten::linear") > 0
    assert "Self CPU" in trace.with_name("rank_00001.operators.txt").read_text()
    (event,) = [event for event in read_events(tmp_path / "window" / "run") if event["kind"] == "profiled"]
    assert (event["step"], event["folder"]) == (3, "profiles/steps_2-3")
    assert "ranks 0, 1" in event["text"]


def test_requests_that_are_none_are_removed(tmp_path: Path) -> None:
    assert take_request(tmp_path) == 0
    write_request(tmp_path, steps=5)
    path = tmp_path / "profiles" / "request.json"
    assert (take_request(tmp_path), path.exists()) == (5, False)
    for content in ('{"steps": 0}', '{"steps": true}', '{"steps": "9"}', "{}", '{"steps": 1e9}'):
        path.write_text(content)
        assert (take_request(tmp_path), path.exists()) == (0, False)
    for steps in (0, 1_001):
        with pytest.raises(InputError, match=r"from 1 to 1,000"):
            write_request(tmp_path, steps=steps)


def test_only_a_run_that_goes_on_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(tmp_path)]) == 2
    assert "no job holds" in capsys.readouterr().err
    lock = run_lock.take(tmp_path)
    try:
        assert main(["profile", str(tmp_path), "--steps", "2", "--wait", "0"]) == 0
    finally:
        lock.release()
    assert "not taken within 0 s" in capsys.readouterr().out
    assert take_request(tmp_path) == 2


def test_windows_as_they_are_written(tmp_path: Path) -> None:
    assert profiled_steps(ProfilerWindow(steps="100-102")) == range(100, 103)
    assert profiled_steps(ProfilerWindow(steps="7")) == range(7, 8)
    assert not profiled_steps(ProfilerWindow())
    run = a_run(tmp_path, steps=5)
    for field, message in (
        ("steps=3-2", "a first and a last step"),
        ("steps=0", "a first"),
        ("ranks=2", "ranks 0 to 1"),
    ):
        with pytest.raises(InputError, match=message):
            check(override(run, [f"profile.{field}"]), world_size=2)
