"""`megaphi compare`: the paired table, what it refuses to compare, half folders, checkpoints, contaminated items."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megaphi.cli import main
from megaphi.cli.evaluation.compare import NAMES
from megaphi.evaluation.report.comparison import REASONS, compare
from megaphi.evaluation.report.comparison_report import places_of
from megaphi.evaluation.result_files import write_evaluation
from tests.evaluation.made_evaluations import changed, coins, evaluation, response, task

RATES = np.random.default_rng(5).beta(0.6, 0.4, 400)
"""Items that are easy or hard for every model."""


def written(folder: Path, *tasks, **fields) -> str:
    folder.mkdir(parents=True)
    write_evaluation(folder, evaluation(*tasks, **fields))
    return str(folder)


def raised(rate: float, seed: int = 1, name: str = "mmlu", **fields):
    """The same items, wrong answers made right with probability `rate`."""
    return coins(name, RATES + (1 - RATES) * rate, seed=seed, **fields)


def table(text: str) -> dict[str, list[str]]:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    return {row[0]: row[1:] for row in rows}


def test_a_difference_and_none(tmp_path, capsys):
    first = written(tmp_path / "sft", raised(0, seed=1), raised(0, seed=3, name="gpqa"))
    second = written(tmp_path / "dpo", raised(0.4, seed=2), raised(0, seed=4, name="gpqa"), raised(0, name="math"))
    assert main(["compare", first, second, "--items", "2"]) == 0
    text = capsys.readouterr().out
    found = table(text)
    assert found["mmlu"][-1] == "better"
    assert found["gpqa"][-1] == "within noise"
    assert found["mmlu"][0] == "400"
    assert f"math (in {second})" in text.replace("\\", "")
    assert "the first 2 of" in text
    assert "0.00 to 1.00" in text
    assert "Of 2 comparisons 0.1 would be called different by chance; 1 are" in text


def test_a_paired_test_sees_what_two_intervals_do_not():
    """Three points on 400 items of equal difficulty for both models: the intervals overlap, the test is sure."""
    first = coins("mmlu", [1.0] * 200 + [0.0] * 200, seed=1)
    second = changed(first, lambda n, one: {"scores": {"accuracy": 1.0}} if 200 <= n < 212 else {})
    (row,) = compare({"a": evaluation(first), "b": evaluation(second)})
    assert row.first.high > row.second.low
    assert not row.paired.within_noise
    assert row.changed == tuple((f"q{n:05}", 0.0, 1.0) for n in range(200, 212))


@pytest.mark.parametrize(
    ("reason", "result", "fields"),
    [
        ("protocol", {}, {"protocol": "corrected"}),
        ("judge", {}, {"judge": "gpt"}),
        ("switches", {"switches": {"first-answer": False}}, {}),
        ("rules", {"rules": {"temperature": 0.7}}, {}),
        (
            "wording",
            {"rules": {"temperature": 0.5, "max_tokens": 2048, "repeats": 1, "wording": {"question": "x"}}},
            {},
        ),
        ("files", {"files": ({"path": "mmlu.jsonl", "sha256": "cd" * 32, "rows": 400},)}, {}),
    ],
)
def test_what_is_not_comparable_is_refused_by_name(tmp_path, capsys, reason, result, fields):
    one = raised(0)
    folders = [written(tmp_path / "a", one), written(tmp_path / "b", replace(one, **result), **fields)]
    assert main(["compare", *folders]) == 2
    message = capsys.readouterr().err
    assert f"\n  {reason}: " in message
    assert f"--allow {reason}" in message
    assert message.count("\n  ") == 2  # one reason, and what to do
    assert main(["compare", *folders, "--allow", reason]) == 0


def test_other_items_and_other_questions_are_refused_and_shared_ones_compared(tmp_path, capsys):
    one = raised(0)
    folders = [written(tmp_path / "a", one), written(tmp_path / "b", replace(one, responses=one.responses[100:]))]
    assert main(["compare", *folders]) == 2
    assert "mmlu: 400 and 300 items, 300 of them in both" in capsys.readouterr().err
    assert main(["compare", *folders, "--allow", "items"]) == 0
    assert table(capsys.readouterr().out)["mmlu"][0] == "300"
    other = written(tmp_path / "c", changed(one, lambda n, _: {"gold": "D"} if n == 7 else {}))
    assert main(["compare", folders[0], other]) == 2
    assert "item q00007 has another question or right answer" in capsys.readouterr().err


def test_the_names_of_reasons_are_those_of_the_option():
    assert tuple(REASONS) == NAMES


def test_half_folders_and_wrong_words(tmp_path, capsys):
    good = written(tmp_path / "good", raised(0))
    half = written(tmp_path / "half", raised(0))
    lines = (tmp_path / "half" / "mmlu.jsonl").read_bytes()
    (tmp_path / "half" / "mmlu.jsonl").write_bytes(lines[: len(lines) // 2 - 20])
    (tmp_path / "empty").mkdir()
    other = written(tmp_path / "other", raised(0, name="math"))
    for words, said in (
        ([good, half], "mmlu.jsonl, line "),
        ([good, str(tmp_path / "empty")], "holds no evaluation"),
        ([good], "at least two"),
        ([good, good], "given twice"),
        ([good, other], "no task is in all of these evaluations"),
        ([good, half.replace("half", "good2"), "--tasks", "mmul"], "holds no evaluation"),
        ([good, half, "--items", "-1"], "--items -1"),
    ):
        assert main(["compare", *words]) == 2, words
        message = capsys.readouterr().err
        assert said in message
        assert "Traceback" not in message
    again = written(tmp_path / "again", raised(0))
    assert main(["compare", good, again, "--tasks", "mmul"]) == 2
    assert "Did you mean 'mmlu'?" in capsys.readouterr().err
    assert main(["compare", good, again, "--score", "f1"]) == 2
    assert "has no score 'f1': it has accuracy" in capsys.readouterr().err


def test_checkpoints_over_their_steps(tmp_path, capsys):
    folders = [
        written(tmp_path / f"step{step}", raised(step / 1_000, seed=step), identity={"step": step})
        for step in (300, 100, 200)
    ]
    output = tmp_path / "out"
    assert main(["compare", *folders, "--output", str(output)]) == 0
    assert (output / "scores.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads((output / "comparison.json").read_text())
    assert [row["name"] for row in figures] == folders[1:]
    assert all(0 <= row["paired"]["p_value"] <= row["adjusted_p"] <= 1 for row in figures)
    moved = [json.loads(line) for line in (output / "changed_items.jsonl").read_text().splitlines()]
    assert len(moved) == sum(row["changed_items"] for row in figures)
    assert (output / "comparison.md").read_text() in capsys.readouterr().out
    assert main(["compare", *folders, "--output", str(output)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_axis_is_the_first_that_tells_all_apart():
    one = task("mmlu", [response("q", 1.0)])

    def made(**identity):
        return evaluation(one, identity=identity)

    assert places_of({"a": made(step=2, tokens=9), "b": made(step=1, tokens=5)}) == ("step", {"a": 2.0, "b": 1.0})
    assert places_of({"a": made(step=1, tokens=9), "b": made(step=1, tokens=5)})[0] == "tokens"
    assert places_of({"a": made(), "b": made(step=1)})[1] == {"a": 1.0, "b": 2.0}


def test_scores_without_contaminated_items(tmp_path, capsys):
    """A gain that is all on contaminated items is gone without them."""
    first = coins("mmlu", [1.0] * 50 + [0.0] * 50, seed=1)
    second = changed(first, lambda n, one: {"scores": {"accuracy": 1.0}} if n >= 90 else {})
    folders = [written(tmp_path / "a", first), written(tmp_path / "b", second)]
    marks = [{"set": "mmlu", "item": f"q{n:05}", "status": "contaminated" if n >= 90 else "clean"} for n in range(100)]
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(mark) + "\n" for mark in marks))
    assert main(["compare", *folders, "--contamination", str(file)]) == 0
    found = table(capsys.readouterr().out)
    assert found["mmlu"][-1] == "better"
    assert found["mmlu, without contaminated items"][0] == "90"
    assert found["mmlu, without contaminated items"][3] == "+0.0"
    for content, said in (
        ("".join(json.dumps(mark) + "\n" for mark in marks[1:]), "1 evaluated items of mmlu have no line"),
        (json.dumps(marks[0] | {"status": "dirty"}) + "\n", "line 1: needs the texts set, item and status"),
        (json.dumps(marks[0] | {"set": "math"}) + "\n", "has no set named as an evaluated task: it has math"),
        ('{"set": "mm', "line 1: "),
    ):
        file.write_text(content)
        assert main(["compare", *folders, "--contamination", str(file)]) == 2
        assert said in capsys.readouterr().err
