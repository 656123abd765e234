"""Files of an evaluation: what was written is read, and everything else is one error with its place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megaphi.errors import InputError
from megaphi.evaluation.result_files import read_evaluation, write_evaluation
from megaphi.evaluation.results import Evaluation, GradedResponse, TaskResult

RESPONSE = GradedResponse(
    item="a", repeat=0, cluster="a", group="", question="1 + 1?", gold="2",
    prompt=[{"role": "user", "content": "1 + 1?"}],
    text="2 \ud800", tokens=1, finish="stop", extracted="2", scores={"exact": 1.0}, problem="", note="", details={},
)  # fmt: skip
TASK = TaskResult(
    task="sums", scores=("exact",), derived={}, switches={"first-answer": True}, rules={"max_tokens": 8},
    files=({"path": "sums.jsonl", "sha256": "0", "rows": 2},), items_in_files=2, quirks={"first-answer": -0.5},
    quirk_intervals={"first-answer": (-1.5, 0.5)},
    responses=(RESPONSE, replace(RESPONSE, item="b", cluster="b", text="", problem="no answer extracted")),
)  # fmt: skip
EVALUATION = Evaluation(
    model="runs/x", identity={"step": 7}, protocol="corrected", judge="", seed=0, version="1", tasks={"sums": TASK},
    settings={"limit": None},
)  # fmt: skip


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_evaluation(tmp_path, EVALUATION)
    found = read_evaluation(tmp_path)
    assert found.tasks["sums"].responses[1] == TASK.responses[1]
    assert found.tasks["sums"].responses[0].text == "2 \ud800"
    assert replace(found, tasks={}) == replace(EVALUATION, tasks={})
    assert replace(found.tasks["sums"], responses=()) == replace(TASK, responses=())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"repeat": 0, ', "", r"sums\.jsonl, line 1: the field 'repeat' is missing"),
        ('"repeat"', '"repaet": 1, "repeat"', r"line 1: unknown field 'repaet'\. Did you mean 'repeat'\?"),
        ('"tokens": 1', '"tokens": true', "line 1: field 'tokens' must be int, not bool"),
        ('"problem": ""', '"problem": "odd"', "line 1: field 'problem' is 'odd', none of ''"),
        ("{", "", r"sums\.jsonl, line 1: "),
        ("}\n", "", r"sums\.jsonl, line 1: "),
    ],
)
def test_a_changed_line_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    write_evaluation(tmp_path, EVALUATION)
    path = tmp_path / "sums.jsonl"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        read_evaluation(tmp_path)


def test_a_file_that_was_cut_is_named(tmp_path: Path) -> None:
    write_evaluation(tmp_path, EVALUATION)
    path = tmp_path / "sums.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    with pytest.raises(InputError, match=r"sums\.jsonl has 1 responses, and .*results\.json says 2"):
        read_evaluation(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"there is no file .*sums\.jsonl"):
        read_evaluation(tmp_path)


def test_results_that_were_written_before_quirks_had_intervals(tmp_path: Path) -> None:
    write_evaluation(tmp_path, EVALUATION)
    path = tmp_path / "results.json"
    plain = json.loads(path.read_text())
    del plain["tasks"]["sums"]["quirk_intervals"]
    path.write_text(json.dumps(plain))
    found = read_evaluation(tmp_path).tasks["sums"]
    assert (found.quirks, found.quirk_intervals) == ({"first-answer": -0.5}, {})
    for wrong in (3, {"first-answer": 0.5}, {"first-answer": [0.5]}, {"first-answer": ["0", "1"]}):
        plain["tasks"]["sums"]["quirk_intervals"] = wrong
        path.write_text(json.dumps(plain))
        with pytest.raises(InputError, match=r"task sums: field 'quirk_intervals' must be an object of pairs of num"):
            read_evaluation(tmp_path)


def test_results_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no evaluation: there is no results\.json"):
        read_evaluation(tmp_path)
    write_evaluation(tmp_path, EVALUATION)
    plain = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps({**plain, "format": 99}))
    with pytest.raises(InputError, match="the format is not 1"):
        read_evaluation(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({**plain, "seed": "0"}))
    with pytest.raises(InputError, match="field 'seed' must be int, not str"):
        read_evaluation(tmp_path)
