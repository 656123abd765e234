"""`megaphi pivotal read`: events and resampled traces of other programs, and what is made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megaphi.cli import main
from megaphi.pivotal.interchange.pts_events import read_events
from tests.pivotal.interchange.test_math_rollouts import SENTENCES, problem
from tests.pivotal.interchange.test_pts_events import LATENT, OLD_TOKEN, SENTENCE, TOKEN, written


def test_events_are_counted_and_the_largest_effects_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, TOKEN, SENTENCE, LATENT, OLD_TOKEN)
    assert main(["pivotal", "read", str(path), "--most", "2"]) == 0
    first, *shown = capsys.readouterr().out.splitlines()
    assert first == "4 events, 2 pivotal_token, 1 thought_anchor, 1 latent_metatoken"
    assert [line.split()[0] for line in shown] == ["-0.40", "+0.32"]
    assert "' x' after 'so'" in shown[0]


def test_resampled_traces_become_events_and_value_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem(tmp_path / "data" / "problem_1", [[True] * 3 + [False], [True] * 4, [False, None]])
    words = ["--events", str(tmp_path / "events.jsonl"), "--values", str(tmp_path / "values.jsonl")]
    assert main(["pivotal", "read", str(tmp_path / "data"), *words]) == 0
    said = capsys.readouterr().out
    assert "1 traces (1 right), 3 sentences, 10 rollouts" in said
    events = read_events(tmp_path / "events.jsonl")
    assert [event.label for event in events] == SENTENCES
    assert events[0].effect == pytest.approx(0.25)
    assert events[1].context == SENTENCES[0]
    values = [json.loads(line) for line in (tmp_path / "values.jsonl").read_text().splitlines()]
    assert [(value["n"], value["successes"], value["censored"]) for value in values] == [
        (4, 3, 0),
        (4, 4, 0),
        (1, 0, 1),
    ]
    assert [value["prefix"] for value in values] == ["", SENTENCES[0], SENTENCES[0] + SENTENCES[1]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.jsonl"], "there is no file"),
        (["events.jsonl", "--most", "-1"], "--most -1: must not be negative"),
        (["events.jsonl", "--values", "x"], "--values is for a folder of resampled traces"),
    ],
)
def test_wrong_input_is_one_error(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, TOKEN)
    monkeypatch.chdir(tmp_path)
    assert main(["pivotal", "read", *words]) == 2
    assert message in capsys.readouterr().err
